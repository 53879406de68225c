#include "model/unknown_architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "outrider/text.h"

namespace outrider {
namespace {

const char* const kOtherFamilies =
    "a plugin can bring another: docs/adding_a_base_model.md shows how one is written, `outrider "
    "plugin add FILE` installs it";

// "LlamaForCausalLM" is family "Llama" and task "ForCausalLM".
std::pair<std::string, std::string> family_and_task(const std::string& architecture) {
  auto end = architecture.find("For");
  if (end == architecture.npos && architecture.ends_with("Model")) end = architecture.size() - 5;
  end = std::min(end, architecture.size());
  return {architecture.substr(0, end), architecture.substr(end)};
}

/// A family's name as the model types of config.json files and architectures have in common:
/// "qwen25vl" of "qwen2_5_vl_text" and of "Qwen2_5_VL".
std::string plain_name(std::string name) {
  if (name.ends_with("_text")) name.resize(name.size() - 5);
  std::erase_if(name, [](char c) { return c == '_' || c == '-' || c == '.'; });
  std::ranges::transform(name, name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

// ---- Misspellings -------------------------------------------------------------------------------

bool is_decimal(char c) { return c >= '0' && c <= '9'; }

// Not the first or the last one, by which variants are told apart (Phi3V).
bool lacks_one_letter(const std::string& shorter, const std::string& longer) {
  for (size_t i = 1; i + 1 < longer.size() && longer.size() == shorter.size() + 1; ++i) {
    if (!is_decimal(longer[i]) && shorter == longer.substr(0, i) + longer.substr(i + 1))
      return true;
  }
  return false;
}

bool swaps_two_letters(const std::string& a, const std::string& b) {
  for (size_t i = 0; i + 1 < a.size() && a.size() == b.size(); ++i) {
    auto swapped = a;
    std::swap(swapped[i], swapped[i + 1]);
    if (!is_decimal(a[i]) && !is_decimal(a[i + 1]) && swapped == b) return true;
  }
  return false;
}

/// Another letter or number makes another family (Mixtral, Qwen3), and is no slip.
bool is_same_family(const std::string& given, const std::string& known) {
  const auto a = plain_name(given), b = plain_name(known);
  return a == b || lacks_one_letter(a, b) || lacks_one_letter(b, a) || swaps_two_letters(a, b);
}

/// Known architectures of which this one is a misspelling. What a model type confirms is none.
std::vector<std::string> meant_architectures(const std::string& architecture,
                                             const std::string& model_type,
                                             const std::vector<std::string>& known) {
  const auto [family, task] = family_and_task(architecture);
  std::vector<std::string> meant;
  for (const auto& name : known) {
    const auto [known_family, known_task] = family_and_task(name);
    const bool is_confirmed = plain_name(model_type) == plain_name(family) &&
                              plain_name(family) != plain_name(known_family);
    if (!is_confirmed && is_same_family(family, known_family) &&
        !nearest_names(task, {known_task}).empty()) {
      meant.push_back(name);
    }
  }
  return meant;
}

// ---- What a config.json tells -------------------------------------------------------------------

std::string string_at(const Json& config, const char* key) {
  const auto found = config.is_object() ? config.find(key) : config.end();
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

const Json& object_at(const Json& config, const char* key) {
  static const auto& none = *new Json(nullptr);
  const auto found = config.is_object() ? config.find(key) : config.end();
  return found != config.end() && found->is_object() ? *found : none;
}

/// The config of the text model in a multimodal one; null where there is none.
const Json& text_config_of(const Json& config) {
  const auto& thinker = object_at(config, "thinker_config");
  for (const auto* outer : {&config, &thinker}) {
    for (const char* key : {"text_config", "language_config", "llm_config"}) {
      if (const auto& found = object_at(*outer, key); !found.is_null()) return found;
    }
  }
  return object_at(config, "none");
}

std::string first_architecture_in(const Json& config) {
  const auto names = config.is_object() ? config.value("architectures", Json()) : Json();
  return names.is_array() && !names.empty() && names[0].is_string() ? names[0].get<std::string>()
                                                                    : "";
}

/// The text model in a multimodal one: what it is called there, and the known architecture that
/// computes it, if one does.
struct TextPart {
  std::string name, architecture;
};

// Multimodal families whose text model computes for text alone what another one does: the sections
// of their rotary embedding all get the token's position.
constexpr std::pair<const char*, const char*> kSameForText[] = {
    {"qwen2vl", "qwen2"}, {"qwen25vl", "qwen2"}, {"qwen3vl", "qwen3"}};

std::string known_family(const std::string& name, const std::vector<std::string>& known) {
  auto wanted = plain_name(name);
  for (const auto& [multimodal, text] : kSameForText) {
    if (wanted == multimodal) wanted = text;
  }
  for (const auto& candidate : known) {
    if (plain_name(family_and_task(candidate).first) == wanted) return candidate;
  }
  return "";
}

TextPart text_part_of(const std::string& architecture, const Json& config,
                      const std::vector<std::string>& known) {
  const auto& text = text_config_of(config);
  const auto model_type = string_at(text, "model_type"), own = first_architecture_in(text);
  const bool is_bare = text.is_null() && (!object_at(config, "vision_config").is_null() ||
                                          !object_at(config, "audio_config").is_null());
  if (text.is_null() && !is_bare) return {};
  // Older folders keep the text model's keys beside those of the whole.
  if (is_bare) return {architecture, known_family(family_and_task(architecture).first, known)};
  if (!own.empty() && std::ranges::count(known, own) > 0) return {own, own};
  if (!model_type.empty()) return {model_type, known_family(model_type, known)};
  return {own.empty() ? "unnamed" : own, ""};
}

/// "'num_local_experts' is 8" where layers are mixtures of experts, else "".
std::string experts_in(const Json& config) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    const auto count = config.is_object() ? config.value(key, Json()) : Json();
    if (count.is_number_integer() && count > 1) return fmt::format("'{}' is {}", key, count.dump());
  }
  return "";
}

std::string explanation(const Json& config, const TextPart& text) {
  std::vector<std::string> parts;
  if (!text.name.empty()) {
    parts.push_back(text.architecture.empty()
                        ? fmt::format("it is multimodal, and its text model {} is not known either",
                                      in_quotes(text.name, 100))
                        : fmt::format("it is multimodal, and its text model {} is known, as {}",
                                      in_quotes(text.name, 100), text.architecture));
  }
  auto experts = experts_in(config);
  if (experts.empty()) experts = experts_in(text_config_of(config));
  if (!experts.empty()) {
    parts.push_back("its layers are mixtures of experts (" + experts + "), which is another model");
  }
  for (const auto* whole : {&config, &text_config_of(config)}) {
    if (auto problem = quantisation_problem(*whole); !problem.empty()) parts.push_back(problem);
  }
  return parts.empty() ? "" : ": " + join(parts, "; ");
}

std::string same_family_in(const std::string& architecture, const std::vector<std::string>& known) {
  const auto family = plain_name(family_and_task(architecture).first);
  for (const auto& name : known) {
    if (plain_name(family_and_task(name).first) == family) return name;
  }
  return "";
}

std::string next_step(const std::string& architecture, const Json& config, const TextPart& text,
                      const std::vector<std::string>& known) {
  if (!text.architecture.empty()) {
    return fmt::format(
        "save the text model as a {} of its own and give that folder: "
        "docs/adding_a_base_model.md, \"The text model inside a multimodal one\", has the lines of "
        "Python",
        text.architecture);
  }
  const auto meant = meant_architectures(architecture, string_at(config, "model_type"), known);
  const bool may_be_meant = experts_in(config).empty() && text.name.empty();
  if (may_be_meant && !meant.empty()) return suggestion(architecture, meant);
  if (const auto same = same_family_in(architecture, known); may_be_meant && !same.empty()) {
    return fmt::format("of this family {} is known: give the model with its language-model head",
                       same);
  }
  return suggestion("", known) + (known.empty() ? "" : "; ") + kOtherFamilies;
}

}  // namespace

Error unknown_architecture(const std::string& architecture, const Json& config,
                           const std::vector<std::string>& known) {
  const auto text = text_part_of(architecture, config, known);
  return Error(ErrorCode::kUnknownArchitecture,
               fmt::format("base architecture {} is not known{}", in_quotes(architecture),
                           explanation(config, text)),
               next_step(architecture, config, text, known));
}

std::string quantisation_problem(const Json& config) {
  const auto& quantised = object_at(config, "quantization_config");
  if (quantised.is_null()) {
    const bool is_set =
        config.is_object() && !config.value("quantization_config", Json()).is_null();
    return is_set ? "'quantization_config' is no object" : "";
  }
  auto method = string_at(quantised, "quant_method");
  if (method.empty()) method = string_at(quantised, "quant_algo");
  return fmt::format(
      "'quantization_config' says {}: quantised bases are not supported; take the release that "
      "this "
      "one was made from, whose config.json has no such key",
      method.empty() ? "that it is quantised" : in_quotes(method, 40));
}

}  // namespace outrider
