#include "outrider/model/model_config.h"

#include <fmt/format.h>

#include "config/config_reader.h"
#include "model/unknown_architecture.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/model/base_model_registry.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::string first_architecture(const Json& json, ConfigReader& reader) {
  const auto found = json.find("architectures");
  if (found == json.end() || !found->is_array() || found->empty() || !found->front().is_string()) {
    reader.problem("'architectures' is missing or no list of names");
    return "";
  }
  return found->front().get<std::string>();
}

at::ScalarType stored_dtype(ConfigReader& reader) {
  const auto name = reader.text("dtype", reader.text("torch_dtype", "float32"));
  try {
    return parse_dtype(name);
  } catch (const Error& error) {
    reader.problem(fmt::format("'dtype': {}", error.what()));
    return at::kFloat;
  }
}

constexpr int64_t kDerived = 0;

// Of the configuration classes of transformers 5.14.
struct Defaults {
  int64_t num_key_value_heads = kDerived, head_dim = kDerived;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
};

Defaults defaults_of(const std::string& architecture) {
  if (architecture == "MistralForCausalLM") return {8, kDerived, 131072, 1e-6};
  if (architecture == "Qwen2ForCausalLM") return {32, kDerived, 32768, 1e-6};
  if (architecture == "Qwen3ForCausalLM") return {32, 128, 32768, 1e-6};
  if (architecture == "Phi3ForCausalLM") return {kDerived, kDerived, 4096, 1e-5};
  return {};
}

void read_sizes(ModelConfig& config, const Defaults& defaults, ConfigReader& reader) {
  constexpr int64_t kMaximumSize = int64_t{1} << 20;
  config.vocab_size = reader.integer("vocab_size", {}, 1, int64_t{1} << 24);
  config.hidden_size = reader.integer("hidden_size", {}, 1, kMaximumSize);
  config.intermediate_size = reader.integer("intermediate_size", {}, 1, kMaximumSize);
  config.num_hidden_layers = reader.integer("num_hidden_layers", {}, 0, 4096);
  config.num_attention_heads = reader.integer("num_attention_heads", {}, 1, 65536);
  config.max_position_embeddings =
      reader.integer("max_position_embeddings", defaults.max_position_embeddings);
  config.rms_norm_eps = reader.number("rms_norm_eps", defaults.rms_norm_eps);
}

// Null means "derive it", which for some families differs from leaving the key out.
void read_head_sizes(ModelConfig& config, const Json& json, const Defaults& defaults,
                     ConfigReader& reader) {
  const auto fallback = [&](const char* key, int64_t if_absent, int64_t derived) {
    return if_absent == kDerived || json.contains(key) ? derived : if_absent;
  };
  config.num_key_value_heads = reader.integer(
      "num_key_value_heads",
      fallback("num_key_value_heads", defaults.num_key_value_heads, config.num_attention_heads), 1,
      65536);
  const int64_t share = std::max<int64_t>(1, config.hidden_size / config.num_attention_heads);
  config.head_dim =
      reader.integer("head_dim", fallback("head_dim", defaults.head_dim, share), 1, 65536);
}

void check_consistency(const ModelConfig& config, ConfigReader& reader) {
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    reader.problem(
        fmt::format("'num_attention_heads' ({}) is no multiple of 'num_key_value_heads' ({})",
                    config.num_attention_heads, config.num_key_value_heads));
  }
  if (config.head_dim % 2 != 0) reader.problem("'head_dim' must be even for rotary embeddings");
}

// Phi-3's scaled rotary embedding has one kind and three names, and its original length stands
// beside the dictionary, with a default of its own.
Json with_phi3_rope(Json json) {
  json.emplace("original_max_position_embeddings", 4096);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    auto& rope = json[key];
    if (!rope.is_object()) continue;
    const auto type = rope.value("rope_type", rope.value("type", Json()));
    if (type == "su" || type == "yarn") rope["rope_type"] = "longrope";
    rope.erase("original_max_position_embeddings");
  }
  return json;
}

RopeConfig read_rope(const ModelConfig& config, const Json& json, const std::string& origin) {
  const bool is_phi3 = config.architecture == "Phi3ForCausalLM";
  auto rope = RopeConfig::from_json(is_phi3 ? with_phi3_rope(json) : json, origin,
                                    /*allow_partial_rotation=*/true);
  rope.max_position_embeddings = config.max_position_embeddings;
  return rope;
}

void read_all(ModelConfig& config, const Json& json, ConfigReader& reader,
              const std::string& origin) {
  const auto defaults = defaults_of(config.architecture);
  config.model_type = reader.text("model_type", "");
  read_sizes(config, defaults, reader);
  read_head_sizes(config, json, defaults, reader);
  config.hidden_act = reader.text("hidden_act", "silu");
  config.attention_bias = reader.boolean("attention_bias", false);
  config.mlp_bias = reader.boolean("mlp_bias", false);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  config.dtype = stored_dtype(reader);
  check_consistency(config, reader);
  if (auto problem = quantisation_problem(json); !problem.empty()) {
    reader.problem(std::move(problem));
  }
  reader.finish();
  config.rope = read_rope(config, json, origin);
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& json, const std::string& origin) {
  if (!json.is_object()) {
    throw Error(ErrorCode::kInvalidConfig, origin + ": not a JSON object");
  }
  ModelConfig config;
  ConfigReader reader(json, origin);
  config.architecture = first_architecture(json, reader);
  try {
    read_all(config, json, reader, origin);
  } catch (const Error&) {
    // Another family's config has other keys; that the family is unknown says more.
    const auto& registry = BaseModelRegistry::instance();
    if (config.architecture.empty() || registry.knows(config.architecture)) throw;
    throw unknown_architecture(config.architecture, json, registry.names());
  }
  config.raw = json;
  return config;
}

ModelConfig ModelConfig::read(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  return from_json(read_json_file(path), path.string());
}

}  // namespace outrider
