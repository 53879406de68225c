#include "medusa_format.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "draft/medusa_draft.h"
#include "outrider/checkpoint/torch_tensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/problems.h"
#include "outrider/sdk/draft_record.h"
#include "outrider/text.h"

namespace outrider::medusa {
namespace fs = std::filesystem;
namespace {

constexpr const char* kName = "medusa";
constexpr const char* kTensorFile = "medusa_lm_head.safetensors";
// What Medusa's own program opens.
constexpr const char* kPickleFile = "medusa_lm_head.pt";
constexpr const char* kSizes[] = {"medusa_num_heads", "medusa_num_layers"};

TensorMap draft_tensors(const ExportContext& context) {
  if (!dynamic_cast<const MedusaDraft*>(context.draft.draft.get())) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("format '{}' cannot hold the draft that another plugin brought for {}",
                            kName, context.model.config().architecture),
                "export it with a format of that plugin");
  }
  TensorMap tensors;
  for (const auto& item : context.draft.draft->named_parameters()) {
    tensors[item.key()] = item.value();
  }
  return tensors;
}

// Medusa's own program makes one residual block per head and applies it once per layer.
bool blocks_are_shared(const TensorMap& tensors, int64_t heads, int64_t layers) {
  for (int64_t i = 0; i < heads; ++i) {
    for (int64_t j = 1; j < layers; ++j) {
      for (const char* part : {"weight", "bias"}) {
        if (!at::equal(tensors.at(fmt::format("{}.{}.linear.{}", i, j, part)),
                       tensors.at(fmt::format("{}.0.linear.{}", i, part)))) {
          return false;
        }
      }
    }
  }
  return true;
}

void refuse_separate_blocks(const ExportContext& context, const TensorMap& tensors) {
  const auto& config = context.draft.state.config;
  const auto layers = config.at("medusa_num_layers").get<int64_t>();
  const auto heads = config.at("medusa_num_heads").get<int64_t>();
  if (context.allow_train_serve_mismatch || blocks_are_shared(tensors, heads, layers)) return;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("medusa_num_layers={}: Medusa's own program applies one residual block of "
                  "a head {} times, while this draft has a block for each",
                  layers, layers),
      "train with medusa_num_layers=1, or, for readers that keep the blocks apart, add "
      "--allow-train-serve-mismatch");
}

void write(const ExportContext& context, const fs::path& folder) {
  const auto tensors = draft_tensors(context);
  refuse_separate_blocks(context, tensors);
  const auto& base = context.model.config();
  Json json = {
      {"base_model_name_or_path", context.base_name.empty() ? Json() : Json(context.base_name)},
      {"hidden_size", base.hidden_size},
      {"vocab_size", base.vocab_size},
      {"torch_dtype", dtype_name(context.model.dtype())},
      {"version", "2"}};
  for (const char* key : kSizes) json[key] = context.draft.state.config.at(key);
  write_tensors(folder / kTensorFile, tensors, DraftRecord::of(context.draft));
  write_torch_tensors(folder / kPickleFile, tensors);
  write_json_file(folder / "config.json", json);
}

bool probe(const fs::path& folder) {
  const auto config = read_json_file(folder / "config.json");
  return (config.is_object() && config.contains(kSizes[0])) || fs::exists(folder / kPickleFile) ||
         fs::exists(folder / kTensorFile);
}

Json read_config(const fs::path& path) {
  const auto config = read_json_file(path);
  Problems problems;
  for (const char* key : kSizes) {
    const auto value = config.is_object() ? config.value(key, Json()) : Json();
    if (value.is_null()) continue;
    const bool fits = value.is_number_integer() && value >= 0 && value <= 64;
    problems.add_when(!fits, fmt::format("'{}' is {}, expected an integer from 0 to 64", key,
                                         printable(value.dump())));
  }
  problems.throw_in_lines(ErrorCode::kInvalidConfig, path.string(),
                          "leave them out: the tensors say how many there are");
  return config.is_object() ? config : Json::object();
}

void read_safetensors(const fs::path& path, ImportedDraft& draft) {
  const auto file = SafetensorsFile::open(path);
  if (const auto record = DraftRecord::in(*file)) {
    draft.config = record->config;
    draft.metadata["reference_numerics"] = record->metadata.value("reference_numerics", Json());
  }
  for (const auto& [name, view] : file->tensors()) draft.tensors[name] = tensor_over(file, view);
}

bool are_equal(const TensorMap& a, const TensorMap& b) {
  return std::ranges::equal(a, b, [](const auto& one, const auto& other) {
    return one.first == other.first && one.second.scalar_type() == other.second.scalar_type() &&
           at::equal(one.second, other.second);
  });
}

// Both files are written; a folder of another program has one of them.
void read_tensors_of(const fs::path& folder, ImportedDraft& draft) {
  const bool has_pickle = fs::exists(folder / kPickleFile);
  if (!has_pickle && !fs::exists(folder / kTensorFile)) {
    throw Error(ErrorCode::kFileNotFound,
                fmt::format("{} has neither {} nor {}", folder.string(), kTensorFile, kPickleFile));
  }
  if (!has_pickle) return read_safetensors(folder / kTensorFile, draft);
  const auto tensors = read_torch_tensors(folder / kPickleFile);
  if (!fs::exists(folder / kTensorFile)) {
    draft.tensors = tensors;
    return;
  }
  read_safetensors(folder / kTensorFile, draft);
  if (are_equal(draft.tensors, tensors)) return;
  throw Error(ErrorCode::kTensorMismatch,
              fmt::format("{}: {} and {} hold different tensors", folder.string(), kTensorFile,
                          kPickleFile),
              "remove the one that is not meant");
}

// How many heads there are, and residual blocks in each, where the names are those of whole heads.
std::optional<std::pair<int64_t, int64_t>> counted(const TensorMap& tensors) {
  int64_t heads = 0, blocks = 0;
  while (tensors.contains(fmt::format("{}.0.linear.weight", heads))) ++heads;
  while (tensors.contains(fmt::format("0.{}.linear.weight", blocks))) ++blocks;
  // A head without blocks is its matrix alone.
  if (heads == 0) {
    while (tensors.contains(fmt::format("{}.0.weight", heads))) ++heads;
  }
  const auto names = static_cast<size_t>(heads * (2 * blocks + 1));
  bool whole = heads > 0 && names == tensors.size();
  for (int64_t i = 0; whole && i < heads; ++i) {
    whole = tensors.contains(fmt::format("{}.{}.weight", i, blocks));
    for (int64_t j = 0; whole && j < blocks; ++j) {
      whole = tensors.contains(fmt::format("{}.{}.linear.weight", i, j)) &&
              tensors.contains(fmt::format("{}.{}.linear.bias", i, j));
    }
  }
  return whole ? std::optional(std::pair(heads, blocks)) : std::nullopt;
}

[[noreturn]] void no_sizes(const fs::path& folder) {
  throw Error(
      ErrorCode::kTensorMismatch,
      fmt::format("{}: config.json has no {} and {}, and the tensors are not those of whole "
                  "heads ('0.0.linear.weight', '0.0.linear.bias', '0.1.weight', …)",
                  in_quotes(folder.string()), kSizes[0], kSizes[1]),
      "fetch the whole folder again");
}

/// Sizes of the heads into the draft's config. Published ones say two where five are in the file:
/// the tensors count.
std::vector<std::string> settle_sizes(ImportedDraft& draft, const Json& config,
                                      const fs::path& folder) {
  std::vector<std::string> notes;
  const auto found = counted(draft.tensors);
  const int64_t counts[] = {found ? found->first : 0, found ? found->second : 0};
  for (size_t i = 0; i < std::size(kSizes); ++i) {
    const auto said = config.value(kSizes[i], Json());
    if (said.is_null() && !found) no_sizes(folder);
    draft.config[kSizes[i]] = found ? Json(counts[i]) : said;
    if (!found || said == counts[i]) continue;
    notes.push_back(
        said.is_null()
            ? fmt::format("config.json has no {}: the tensors have {}", kSizes[i], counts[i])
            : fmt::format("config.json has {} {}, the tensors {}: the tensors count", kSizes[i],
                          said.dump(), counts[i]));
  }
  return notes;
}

// Of the first head's matrix [V,h], which is the base's in size, whatever a copied config says.
Json base_sizes(const ImportedDraft& draft, const Json& config) {
  Json sizes = Json::object();
  for (const char* key : {"hidden_size", "vocab_size"}) {
    if (config.contains(key)) sizes[key] = config[key];
  }
  const auto blocks = draft.config.at(kSizes[1]).get<int64_t>();
  const auto matrix = draft.tensors.find(fmt::format("0.{}.weight", blocks));
  if (matrix == draft.tensors.end() || matrix->second.dim() != 2) return sizes;
  return {{"vocab_size", matrix->second.size(0)}, {"hidden_size", matrix->second.size(1)}};
}

ImportedDraft read(const fs::path& folder) {
  const auto config = read_config(folder / "config.json");
  ImportedDraft draft;
  draft.config = Json::object();
  draft.metadata = Json::object();
  read_tensors_of(folder, draft);
  draft.notes = [notes = settle_sizes(draft, config, folder)](const Json&) { return notes; };
  draft.base = base_sizes(draft, config);
  return draft;
}

}  // namespace

ForeignFormat medusa_format() {
  return {.name = kName,
          .description = "FasterDecoding's Medusa layout",
          .probe = probe,
          .write = write,
          .read = read};
}

}  // namespace outrider::medusa
