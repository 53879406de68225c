#include "hydra_format.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "hydra_draft.h"
#include "outrider/checkpoint/torch_tensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/text.h"

namespace hydra {
namespace fs = std::filesystem;
namespace {

using outrider::Error;
using outrider::ErrorCode;
using outrider::ImportedDraft;
using outrider::in_quotes;
using outrider::Json;
using outrider::printable;

constexpr const char* kName = "hydra";
constexpr const char* kTensorFile = "hydra_lm_head.pt";
constexpr const char* kRecord = "outrider_draft";
constexpr const char* kSizes[] = {"hydra_num_heads", "hydra_num_layers"};
constexpr const char* kEmbedding = "input_embed_fn.weight";  // the original's file has the base's

// What of the original's config a draft of ours is; its other choices compute something else.
const Json& arithmetic() {
  static const auto& keys =
      *new Json({{"hydra_head_arch", "mlp"}, {"grounded_heads", true}, {"hidden_state_offset", 0}});
  return keys;
}

const HydraDraft& hydra_draft(const outrider::ExportContext& context) {
  if (const auto* draft = dynamic_cast<const HydraDraft*>(context.draft.draft.get())) return *draft;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("format '{}' cannot hold the draft that another plugin brought for {}",
                          kName, context.model.config().architecture),
              "export it with a format of that plugin");
}

std::string block_name(int64_t head, int64_t block, const char* parameter) {
  return fmt::format("hydra_mlp.{}.{}.linear.{}", head, block, parameter);
}

// The original makes one block after the first and applies it as often as there are layers.
bool blocks_are_shared(const HydraDraft& draft, int64_t heads, int64_t layers) {
  const auto tensors = draft.named_parameters();
  for (int64_t i = 0; i < heads; ++i) {
    for (int64_t j = 2; j < layers; ++j) {
      for (const char* part : {"weight", "bias"}) {
        if (!at::equal(tensors[block_name(i, j, part)], tensors[block_name(i, 1, part)])) {
          return false;
        }
      }
    }
  }
  return true;
}

void refuse_separate_blocks(const outrider::ExportContext& context, const HydraDraft& draft) {
  const auto& config = context.draft.state.config;
  const auto layers = config.at("hydra_num_layers").get<int64_t>();
  const auto heads = config.at("hydra_num_heads").get<int64_t>();
  if (context.allow_train_serve_mismatch || blocks_are_shared(draft, heads, layers)) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("hydra_num_layers={}: Hydra's own program has two residual blocks per "
                          "head and applies the second {} times, while this draft has a block for "
                          "each",
                          layers, layers - 1),
              "train with hydra_num_layers=2 or 1, or, for readers that keep the blocks apart, add "
              "--allow-train-serve-mismatch");
}

void write(const outrider::ExportContext& context, const fs::path& folder) {
  const auto& draft = hydra_draft(context);
  refuse_separate_blocks(context, draft);
  outrider::TensorMap tensors;
  for (const auto& item : draft.named_parameters()) tensors[item.key()] = item.value();
  Json json = arithmetic();
  for (const char* key : kSizes) json[key] = context.draft.state.config.at(key);
  if (!context.base_name.empty()) json["base_model_name_or_path"] = context.base_name;
  json["torch_dtype"] = outrider::dtype_name(context.model.dtype());
  json[kRecord] = {{"config", context.draft.state.config}};
  outrider::write_torch_tensors(folder / kTensorFile, tensors);
  outrider::write_json_file(folder / "config.json", json);
}

bool probe(const fs::path& folder) {
  const auto config = outrider::read_json_file(folder / "config.json");
  return config.is_object() && config.contains(kSizes[0]);
}

void check_sizes(const Json& config, std::vector<std::string>& problems) {
  for (const char* key : kSizes) {
    const auto value = config.value(key, Json());
    if (value.is_number_integer() && value >= 1 && value <= 64) continue;
    problems.push_back(
        fmt::format("'{}' is {}, expected an integer from 1 to 64", key, printable(value.dump())));
  }
}

// A key that is missing has the default of the original's HydraConfig.
void check_arithmetic(const Json& config, std::vector<std::string>& problems) {
  const Json defaults = {
      {"hydra_head_arch", "mlp"}, {"grounded_heads", false}, {"hidden_state_offset", 0}};
  for (const auto& [key, wanted] : arithmetic().items()) {
    const auto value = config.value(key, defaults.at(key));
    if (value == wanted) continue;
    problems.push_back(fmt::format("'{}' is {}, a draft here computes {}", key,
                                   printable(value.dump()), wanted.dump()));
  }
}

void check_record(const Json& config, std::vector<std::string>& problems) {
  const auto record = config.value(kRecord, Json({{"config", Json::object()}}));
  if (record.is_object() && record.value("config", Json()).is_object()) return;
  problems.push_back(fmt::format("'{}' is no object with an object 'config'", kRecord));
}

Json read_config(const fs::path& path) {
  const auto config = outrider::read_json_file(path);
  std::vector<std::string> problems;
  if (config.is_object()) {
    check_sizes(config, problems);
    check_arithmetic(config, problems);
    check_record(config, problems);
  } else {
    problems.push_back("it is no object");
  }
  if (problems.empty()) return config;
  throw Error(ErrorCode::kInvalidConfig,
              fmt::format("{}:{}", path.string(), outrider::indented(problems)),
              "accepted are grounded heads of the architecture 'mlp', without Hydra++'s prefix "
              "attention");
}

ImportedDraft read(const fs::path& folder) {
  const auto config = read_config(folder / "config.json");
  ImportedDraft draft;
  draft.metadata = Json::object();
  draft.config = config.contains(kRecord) ? config[kRecord]["config"] : Json::object();
  for (const char* key : kSizes) draft.config[key] = config.at(key);
  for (auto& [name, tensor] : outrider::read_torch_tensors(folder / kTensorFile)) {
    if (!tensor.is_contiguous()) {  // a small file could ask for much memory
      draft.problems.push_back(in_quotes(name, 100) + " is not stored as a plain tensor");
    } else if (name == kEmbedding) {
      draft.base_copies["embed_tokens.weight"] = tensor;
    } else {
      draft.tensors[name] = tensor;
    }
  }
  return draft;
}

}  // namespace

outrider::ForeignFormat hydra_format() {
  return {.name = kName,
          .description = "the original Hydra's folder",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace hydra
