#include "outrider/model/model_config.h"

#include <fmt/format.h>

#include "model/config_reader.h"
#include "outrider/checkpoint/json_file.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
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

void read_sizes(ModelConfig& config, ConfigReader& reader) {
  constexpr int64_t kMaximumSize = int64_t{1} << 20;
  config.vocab_size = reader.integer("vocab_size", {}, 1, int64_t{1} << 24);
  config.hidden_size = reader.integer("hidden_size", {}, 1, kMaximumSize);
  config.intermediate_size = reader.integer("intermediate_size", {}, 1, kMaximumSize);
  config.num_hidden_layers = reader.integer("num_hidden_layers", {}, 0, 4096);
  config.num_attention_heads = reader.integer("num_attention_heads", {}, 1, 65536);
  config.num_key_value_heads =
      reader.integer("num_key_value_heads", config.num_attention_heads, 1, 65536);
  config.head_dim = reader.integer(
      "head_dim", std::max<int64_t>(1, config.hidden_size / config.num_attention_heads), 1, 65536);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 2048);
}

void check_consistency(const ModelConfig& config, ConfigReader& reader) {
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    reader.problem(fmt::format("'num_attention_heads' ({}) is no multiple of 'num_key_value_heads' ({})",
                               config.num_attention_heads, config.num_key_value_heads));
  }
  if (config.head_dim % 2 != 0) reader.problem("'head_dim' must be even for rotary embeddings");
  if (config.hidden_act != "silu") {
    reader.problem(fmt::format("'hidden_act' is '{}', supported is 'silu'",
                               printable(config.hidden_act)));
  }
  if (reader.has("quantization_config")) {
    reader.problem("'quantization_config' is set: quantised bases are not supported; save the model "
                   "unquantised first");
  }
}

}  // namespace

ModelConfig ModelConfig::from_json(const Json& json, const std::string& origin) {
  if (!json.is_object()) {
    throw Error(ErrorCode::kInvalidConfig, origin + ": not a JSON object");
  }
  ModelConfig config;
  ConfigReader reader(json, origin);
  config.architecture = first_architecture(json, reader);
  config.model_type = reader.text("model_type", "");
  read_sizes(config, reader);
  config.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  config.hidden_act = reader.text("hidden_act", "silu");
  config.attention_bias = reader.boolean("attention_bias", false);
  config.mlp_bias = reader.boolean("mlp_bias", false);
  config.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  config.dtype = stored_dtype(reader);
  check_consistency(config, reader);
  reader.finish();
  config.rope = RopeConfig::from_json(json, origin);
  config.raw = json;
  return config;
}

ModelConfig ModelConfig::read(const std::filesystem::path& folder) {
  const auto path = folder / "config.json";
  return from_json(read_json_file(path), path.string());
}

}  // namespace outrider
