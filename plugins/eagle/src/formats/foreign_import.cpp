#include "foreign_import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "config/architecture.h"
#include "foreign_rope.h"
#include "outrider/checkpoint/torch_tensors.h"
#include "outrider/error.h"
#include "outrider/model/config_meaning.h"
#include "outrider/text.h"
#include "stored_sizes.h"

namespace outrider::eagle {
namespace fs = std::filesystem;
namespace {

// Checked as a base's config is: sizes, rotary embedding, and every key that would change what the
// layers compute.
ModelConfig read_decoder(Json decoder, const std::string& origin) {
  decoder["architectures"] = {"LlamaForCausalLM"};
  auto config = ModelConfig::from_json(decoder, origin);
  check_meaning(config, {"attention_bias", "mlp_bias"});
  return config;
}

VocabularySizes vocabulary_sizes(const ModelConfig& decoder, const Json& draft_vocab_size,
                                 const std::string& origin) {
  if (draft_vocab_size.is_null()) return {decoder.vocab_size, decoder.vocab_size};
  const bool fits = draft_vocab_size.is_number_integer() && draft_vocab_size >= 1 &&
                    draft_vocab_size <= decoder.vocab_size;
  if (!fits) {
    throw Error(ErrorCode::kInvalidConfig,
                fmt::format("{}: 'draft_vocab_size' is {}, expected an integer from 1 to {}",
                            origin, printable(draft_vocab_size.dump()), decoder.vocab_size));
  }
  return {decoder.vocab_size, draft_vocab_size.get<int64_t>()};
}

Json architecture_of(const ModelConfig& decoder, const VocabularySizes& sizes,
                     const DecoderMeaning& meaning) {
  Json architecture = sizes_of(decoder);
  architecture["rope_scaling"] = rope_meaning(decoder.rope);
  architecture["rope_scaling"].erase("max_position_embeddings");
  architecture["hidden_act"] = "silu";
  architecture["num_hidden_layers"] = decoder.num_hidden_layers;
  architecture["attention_bias"] = decoder.attention_bias;
  architecture["mlp_bias"] = decoder.mlp_bias;
  architecture["draft_vocab_size"] = sizes.draft;
  architecture["use_aux_hidden_state"] = true;
  architecture["use_last_layernorm"] = true;
  architecture["eagle_aux_hidden_state_layer_ids"] = meaning.aux_layer_ids;
  architecture["draft_hidden_size"] = decoder.hidden_size;
  architecture.update(meaning.architecture);
  return architecture;
}

// The same layers and the same rotation keep the words in which the draft was configured.
void keep_recorded_words(Json& architecture, Json& config, const DraftRecord& record,
                         const RopeConfig& rope) {
  const auto& recorded = config["eagle_architecture_config"];
  const auto& ids = architecture["eagle_aux_hidden_state_layer_ids"];
  if (ids.empty() || ids == record.metadata.value("aux_layer_ids", Json())) {
    architecture.erase("eagle_aux_hidden_state_layer_ids");
  }
  if (recorded.contains("rope_scaling") &&
      rope_meaning(served_rope(config)) == rope_meaning(rope)) {
    architecture.erase("rope_scaling");
    architecture.erase("rope_theta");
  } else {
    config["eagle_export_rope_scaling"] = Json::object();
  }
}

// Settings that other projects have are in a config only where they change something.
bool says_nothing(const std::string& key, const Json& value, int64_t base_width) {
  if (key == "draft_hidden_size") return value == base_width;
  return (key == "has_embeddings" || key == "norm_before_residual") && value == false;
}

Json mode_config(Json architecture, const std::optional<DraftRecord>& record,
                 const RopeConfig& rope, int64_t base_width) {
  Json config = record ? record->config : Json::object();
  config.erase("eagle_offline");  // the base that it is attached to has its layers
  if (record) {
    keep_recorded_words(architecture, config, *record, rope);
  } else {
    config["eagle_export_rope_scaling"] = Json::object();
  }
  auto& merged = config["eagle_architecture_config"];
  if (merged.is_null()) merged = Json::object();
  for (const auto& [key, value] : architecture.items()) {
    if (!merged.contains(key) && says_nothing(key, value, base_width)) continue;
    if (!merged.contains(key) || merged[key] != value) merged[key] = value;
  }
  return config;
}

// Without a record, a head in the file is the draft's own.
bool shares_head(const VocabularySizes& sizes, const DraftFiles& files, const DraftLayout& layout) {
  if (sizes.reduced()) return false;
  if (!files.tensors.contains("lm_head.weight") && layout.head_is_optional) return true;
  if (!files.record) return false;
  return files.record->config.at("eagle_architecture_config").value("has_lm_head", Json(false)) ==
         false;
}

void move_to(TensorMap& target, TensorMap& source, const std::string& name) {
  if (auto node = source.extract(name); !node.empty()) target.insert(std::move(node));
}

void take_base_copies(ImportedDraft& draft, bool shared_embedding, bool shared_head,
                      const DraftLayout& layout) {
  if (shared_embedding) {
    move_to(draft.base_copies, draft.tensors, "embed_tokens.weight");
    if (layout.has_embedding && draft.base_copies.empty()) {
      draft.problems.push_back("missing: embed_tokens.weight");
    }
  }
  if (!shared_head) return;
  const bool present = draft.tensors.contains("lm_head.weight");
  if (!present && !layout.head_is_optional) draft.problems.push_back("missing: lm_head.weight");
  move_to(draft.base_copies, draft.tensors, "lm_head.weight");
}

constexpr const char* kFirstLayer = "layers.0.";

// A format that calls the first layer something else has no other layers.
void rename_first_layer(ImportedDraft& draft, const std::string& prefix) {
  if (prefix == kFirstLayer) return;
  TensorMap renamed;
  for (auto& [name, tensor] : draft.tensors) {
    if (name.starts_with("layers.")) {
      draft.problems.push_back("unexpected: " + printable(name));
    } else if (name.starts_with(prefix)) {
      renamed[kFirstLayer + name.substr(prefix.size())] = tensor;
    } else {
      renamed[name] = tensor;
    }
  }
  draft.tensors = std::move(renamed);
  draft.file_name = [prefix](const std::string& name) {
    return name.starts_with(kFirstLayer) ? prefix + name.substr(std::string(kFirstLayer).size())
                                         : name;
  };
}

constexpr const char* kPickleFile = "pytorch_model.bin";

// Also links without a target, so that opening them tells what is wrong.
bool has_safetensors(const fs::path& folder) {
  return fs::exists(fs::symlink_status(folder / "model.safetensors")) ||
         fs::exists(fs::symlink_status(folder / "model.safetensors.index.json"));
}

// transformers' own conversion would lose most of a draft.
[[noreturn]] void no_draft_tensors(const fs::path& folder) {
  throw Error(ErrorCode::kFileNotFound,
              fmt::format("{} has neither model.safetensors, nor its shards, nor {}",
                          in_quotes(folder.string()), kPickleFile),
              "of other files, read all tensors with torch.load(FILE, weights_only=True) and write "
              "them with safetensors.torch.save_file(TENSORS, 'model.safetensors')");
}

void read_safetensors(const fs::path& folder, DraftFiles& files) {
  const auto stored = SafetensorsFolder::open(folder);
  files.notes = stored.notes();
  for (const auto& [name, entry] : stored.tensors()) {
    files.tensors[name] = tensor_over(entry.file, *entry.view);
    if (!files.record) files.record = DraftRecord::in(*entry.file);
  }
}

// Which layers are read, where only the conversion knew how many the base has.
std::string layers_note(const std::vector<int64_t>& layers, const DraftLayout& layout) {
  if (layout.layers_key.empty()) {
    return fmt::format(
        "the draft reads the outputs of the base's layers {}, as EAGLE's program "
        "does: this format has no key for others",
        fmt::join(layers, ", "));
  }
  std::vector<int64_t> numbers = layers;
  for (auto& number : numbers) number += layout.layers_offset;
  return fmt::format(
      "config.json does not name the layers of the base that the draft reads: assumed are the "
      "outputs of layers {}, as '{}': [{}] would say; if it was trained on others, put those there",
      fmt::join(layers, ", "), layout.layers_key, fmt::join(numbers, ", "));
}

std::function<std::vector<std::string>(const Json&)> notes_of(std::vector<std::string> notes,
                                                              bool layers_assumed,
                                                              const DraftLayout& layout) {
  return [notes = std::move(notes), layers_assumed, layout](const Json& metadata) {
    auto all = notes;
    if (layers_assumed) {
      all.push_back(layers_note(metadata.at("aux_layer_ids").get<std::vector<int64_t>>(), layout));
    }
    return all;
  };
}

// The settings that say whose embedding and head the draft has.
void settle_sharing(Json& architecture, const DraftFiles& files, const VocabularySizes& sizes,
                    const DraftLayout& layout, bool same_width) {
  const bool shared = same_width && shares_head(sizes, files, layout);
  if (!sizes.reduced() || !same_width) architecture["has_lm_head"] = !shared;
  architecture["has_embeddings"] =
      !same_width || architecture.value("has_embeddings", Json()) == true;
}

}  // namespace

DraftFiles DraftFiles::read(const fs::path& folder) {
  DraftFiles files{
      (folder / "config.json").string(), read_json_file(folder / "config.json"), {}, {}, {}};
  if (!files.config.is_object()) {
    throw Error(ErrorCode::kInvalidFile, files.origin + ": not a JSON object");
  }
  if (has_safetensors(folder)) {
    read_safetensors(folder, files);
  } else if (fs::exists(folder / kPickleFile)) {
    files.tensors = read_torch_tensors(folder / kPickleFile);
  } else {
    no_draft_tensors(folder);
  }
  std::erase_if(files.tensors,
                [](auto& item) { return item.first.ends_with(".rotary_emb.inv_freq"); });
  if (files.record) files.record->config = eagle_schema().resolve(files.record->config);
  return files;
}

Json probed_config(const fs::path& folder) {
  auto config = read_json_file(folder / "config.json");
  return config.is_object() ? config : Json();
}

bool has_tensor_prefix(const fs::path& folder, const std::string& prefix) {
  const auto has_it = [&](const auto& tensors) {
    const auto found = tensors.lower_bound(prefix);
    return found != tensors.end() && found->first.starts_with(prefix);
  };
  if (has_safetensors(folder)) return has_it(SafetensorsFolder::open(folder).tensors());
  const auto pickle = folder / kPickleFile;
  return fs::exists(pickle) && has_it(read_torch_tensors(pickle));
}

bool names_architecture(const Json& config, const std::string& architecture) {
  return config.is_object() && config.value("architectures", Json()) == Json::array({architecture});
}

ConfigProblems& ConfigProblems::when(bool condition, const std::string& problem) {
  problems_.add_when(condition, problem);
  return *this;
}

void ConfigProblems::finish() const {
  problems_.throw_in_lines(ErrorCode::kUnsupported, origin_ + ": Outrider's draft cannot do this",
                           "docs/formats.md says how each key is read");
}

void ConfigProblems::finish_against_tensors() const {
  problems_.throw_in_lines(ErrorCode::kTensorMismatch,
                           origin_ + ": config and tensors leave open what is meant",
                           "complete config.json; docs/formats.md says how each key is read");
}

bool flag(const Json& json, const char* key, bool absent, ConfigProblems& problems) {
  const auto value = json.value(key, Json());
  if (value.is_null()) return absent;
  problems.when(!value.is_boolean(),
                fmt::format("'{}' is {}, expected true or false", key, printable(value.dump())));
  return value == true;
}

std::vector<int64_t> layer_ids(const Json& json, const char* key, int64_t offset,
                               ConfigProblems& problems) {
  const auto value = json.value(key, Json());
  if (value.is_null()) return {};
  std::vector<int64_t> ids;
  bool fits = value.is_array();
  for (const auto& id : fits ? value : Json::array()) {
    fits = fits && id.is_number_integer() && id >= offset && id < offset + 65536 &&
           (ids.empty() || id.get<int64_t>() - offset > ids.back());
    if (fits) ids.push_back(id.get<int64_t>() - offset);
  }
  problems.when(!fits, fmt::format("'{}' is {}, expected increasing layer numbers from {} on", key,
                                   printable(value.dump()), offset));
  return ids;
}

void check_plain_residual(const Json& config, ConfigProblems& problems) {
  problems.when(flag(config, "norm_before_residual", false, problems),
                "'norm_before_residual' is true, which no reader of this format knows: format "
                "'vllm' has it");
}

void check_rope_spellings(const Json& decoder, ConfigProblems& problems) {
  const auto given = [&](const char* key) { return !decoder.value(key, Json()).empty(); };
  if (!given("rope_scaling") || !given("rope_parameters")) return;
  const auto without = [&](const char* key) {
    auto rest = decoder;
    rest.erase(key);
    return rope_meaning(RopeConfig::from_json(rest, "config.json"));
  };
  problems.when(without("rope_scaling") != without("rope_parameters"),
                "'rope_scaling' and 'rope_parameters' describe different rotary embeddings");
}

ImportedDraft imported_draft(DraftFiles files, DecoderMeaning meaning, const DraftLayout& layout) {
  ConfigProblems problems(files.origin);
  for (auto& note : correct_sizes(meaning, files, layout, problems)) files.notes.push_back(note);
  problems.finish_against_tensors();
  const auto decoder = read_decoder(meaning.decoder, files.origin);
  const auto sizes = vocabulary_sizes(decoder, meaning.draft_vocab_size, files.origin);
  const int64_t base_width = meaning.base_width.value_or(decoder.hidden_size);
  auto architecture = architecture_of(decoder, sizes, meaning);
  settle_sharing(architecture, files, sizes, layout, base_width == decoder.hidden_size);
  const bool shared_head = !sizes.reduced() && architecture["has_lm_head"] == false;
  const bool shared_embedding = architecture["has_embeddings"] == false;
  const bool layers_assumed = meaning.aux_layer_ids.empty() && !files.record &&
                              architecture["use_aux_hidden_state"] == true;
  ImportedDraft draft{
      .config = mode_config(std::move(architecture), files.record, decoder.rope, base_width),
      .metadata = Json::object(),
      .tensors = std::move(files.tensors),
      .base_copies = {},
      .base = {{"hidden_size", base_width}, {"vocab_size", decoder.vocab_size}},
      .problems = {},
      .file_name = {},
      .notes = notes_of(std::move(files.notes), layers_assumed, layout)};
  if (files.record) {
    draft.metadata["reference_numerics"] =
        files.record->metadata.value("reference_numerics", Json());
  }
  if (decoder.rope.type == "dynamic") {
    draft.base["max_position_embeddings"] = decoder.max_position_embeddings;
  }
  take_base_copies(draft, shared_embedding, shared_head, layout);
  rename_first_layer(draft, layout.first_layer);
  take_vocabulary_maps(draft.tensors, sizes, layout.maps, draft.problems);
  return draft;
}

}  // namespace outrider::eagle
