#include "outrider/host/hidden_state_shards.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/sha256.h"
#include "outrider/problems.h"
#include "outrider/text.h"
#include "plain_file_name.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWriteStatesAgain = "write them again with `outrider data hidden-states`";

[[noreturn]] void refuse_states(const fs::path& file, const std::string& what,
                                ErrorCode code = ErrorCode::kInvalidFile) {
  throw Error(code, fmt::format("{}: {}", printable(file.string(), 400), what), kWriteStatesAgain);
}

bool is_count(const Json& json) { return json.is_number_unsigned() && json < (uint64_t{1} << 48); }

bool is_layer_list(const Json& json) {
  return json.is_array() && std::ranges::all_of(json, is_count) && std::ranges::is_sorted(json);
}

bool is_hash(const Json& json) {
  return json.is_string() && is_sha256(json.get_ref<const std::string&>());
}

bool is_file_entry(const Json& json) {
  const auto name = json.is_object() ? json.value("file", Json()) : Json();
  return name.is_string() && is_plain_file_name(name.get_ref<const std::string&>()) &&
         is_count(json.value("conversations", Json())) && is_count(json.value("tokens", Json())) &&
         is_hash(json.value("sha256", Json()));
}

bool is_base(const Json& json) {
  return json.is_object() && is_hash(json.value("weights_sha256", Json())) &&
         is_count(json.value("hidden_size", Json()));
}

// One sentence for each key that is missing or wrong.
Problems problems_of(const Json& json) {
  Problems problems;
  problems.add_when(!json.is_object(), "not a JSON object");
  if (!problems.empty()) return problems;
  const auto expect = [&](const char* key, bool holds, const char* what) {
    problems.add_when(!holds, fmt::format("'{}' must be {}", key, what));
  };
  const auto get = [&](const char* key) { return json.value(key, Json()); };
  const auto norm = get("last_hidden");
  const auto files = get("files");
  expect("format_version", get("format_version") == 1, "1");
  expect("kind", get("kind") == "hidden_states", "\"hidden_states\"");
  expect("base_model", is_base(get("base_model")), "an object with hidden_size, weights_sha256");
  expect("layers", is_layer_list(get("layers")), "ascending layer numbers");
  expect("last_hidden", norm == "after_final_norm" || norm == "before_final_norm",
         "\"after_final_norm\" or \"before_final_norm\"");
  expect("max_length", is_count(get("max_length")), "a number of tokens, or 0");
  expect("token_shards_sha256", is_hash(get("token_shards_sha256")), "a SHA-256");
  expect("files", files.is_array() && std::ranges::all_of(files, is_file_entry),
         "a list of files with sha256, conversations and tokens");
  return problems;
}

void check_file(const SafetensorsFile& file, const std::vector<std::string>& names, int64_t tokens,
                int64_t hidden_size) {
  for (const auto& name : names) {
    const auto found = file.tensors().find(name);
    if (found == file.tensors().end())
      refuse_states(file.path(), fmt::format("no tensor '{}'", name));
    if (found->second.shape != std::vector<int64_t>{tokens, hidden_size}) {
      refuse_states(file.path(),
                    fmt::format("'{}' is [{}], expected [{},{}]", name,
                                fmt::join(found->second.shape, ","), tokens, hidden_size));
    }
  }
}

std::string layer_name(int64_t layer) { return fmt::format("layer.{}", layer); }

}  // namespace

bool HiddenStateShards::exist_in(const fs::path& folder) { return fs::exists(folder / kFileName); }

HiddenStateShards HiddenStateShards::open(const fs::path& folder, const TokenShards& tokens) {
  const auto path = folder / kFileName;
  const auto json = read_json_file(path);
  const auto problems = problems_of(json);
  if (!problems.empty()) refuse_states(path, join(problems.all(), "; "));
  if (json["token_shards_sha256"] != sha256_of_file(folder / "shards.json")) {
    refuse_states(path, "they were made from other token shards than those in this folder",
                  ErrorCode::kInvalidData);
  }
  HiddenStateShards shards;
  shards.folder_ = folder;
  shards.base_model_ = json["base_model"];
  shards.hidden_size_ = shards.base_model_["hidden_size"].get<int64_t>();
  shards.layers_ = json["layers"].get<std::vector<int64_t>>();
  shards.is_prenorm_ = json["last_hidden"] == "before_final_norm";
  shards.max_length_ = json["max_length"].get<int64_t>();
  shards.index(json["files"], tokens);
  return shards;
}

void HiddenStateShards::index(const Json& files, const TokenShards& tokens) {
  std::vector<std::string> names{"last_hidden"};
  for (const int64_t layer : layers_) names.push_back(layer_name(layer));
  for (const auto& entry : files) {
    auto file = SafetensorsFile::open(folder_ / entry["file"].get<std::string>());
    check_file(*file, names, entry["tokens"].get<int64_t>(), hidden_size_);
    int64_t begin = 0;
    for (int64_t i = 0; i < entry["conversations"].get<int64_t>(); ++i) {
      const auto conversation = static_cast<int64_t>(rows_.size());
      if (conversation >= tokens.size()) break;
      const auto whole = static_cast<int64_t>(tokens.conversation(conversation).input_ids.size());
      const int64_t size = max_length_ > 0 ? std::min(whole, max_length_) : whole;
      rows_.push_back({shards_.size(), begin, size});
      begin += size;
    }
    if (begin != entry["tokens"].get<int64_t>()) {
      refuse_states(file->path(), fmt::format("holds {} rows, its conversations have {} tokens",
                                              entry["tokens"].dump(), begin));
    }
    shards_.push_back({std::move(file), entry["sha256"].get<std::string>()});
  }
  if (static_cast<int64_t>(rows_.size()) != tokens.size()) {
    refuse_states(folder_ / kFileName,
                  fmt::format("describes {} conversations, the token shards hold {}", rows_.size(),
                              tokens.size()));
  }
  is_verified_.resize(shards_.size());
}

void HiddenStateShards::check_fits(const CausalLM& model) const {
  const auto path = folder_ / kFileName;
  const auto recorded = base_model_["weights_sha256"].get<std::string>();
  if (model.config().hidden_size != hidden_size_ || model.weights_sha256() != recorded) {
    refuse_states(path,
                  fmt::format("made by base weights {:.12}…, the model's base is {}", recorded,
                              model.weights_sha256().empty()
                                  ? "not known"
                                  : fmt::format("{:.12}…", model.weights_sha256())),
                  ErrorCode::kIncompatibleCheckpoint);
  }
  std::vector<std::string> missing;
  for (const int64_t layer : model.hidden_states_needed().layer_outputs) {
    if (std::ranges::count(layers_, layer) == 0) missing.push_back(std::to_string(layer));
  }
  if (missing.empty()) return;
  refuse_states(path,
                fmt::format("the drafts read the layers {}, stored are {}", join(missing, ", "),
                            fmt::join(layers_, ", ")),
                ErrorCode::kInvalidData);
}

const SafetensorsFile& HiddenStateShards::verified(size_t shard) const {
  const std::lock_guard lock(*mutex_);
  const auto& [file, sha256] = shards_[shard];
  if (!is_verified_[shard]) {
    const auto found = sha256_of_file(file->path());
    if (found != sha256) {
      refuse_states(file->path(),
                    fmt::format("its SHA-256 is {}, {} says {}: it was changed or damaged", found,
                                kFileName, sha256));
    }
    is_verified_[shard] = true;
  }
  return *file;
}

at::Tensor HiddenStateShards::rows_of(const Rows& rows, const std::string& tensor) const {
  const auto& view = verified(rows.shard).tensors().at(tensor);
  return tensor_over(shards_[rows.shard].file, view).slice(0, rows.begin, rows.begin + rows.size);
}

StoredBaseOutputs HiddenStateShards::batch(const std::vector<int64_t>& conversations,
                                           int64_t max_length, const std::vector<int64_t>& layers,
                                           int64_t width) const {
  for (const int64_t i : conversations) {
    width = std::max(width, std::min(rows_.at(static_cast<size_t>(i)).size, max_length));
  }
  if (max_length_ > 0 && max_length > max_length_) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the hidden states end at {} tokens, --max-length is {}", max_length_,
                            max_length),
                fmt::format("give --max-length {}, or write longer hidden states", max_length_));
  }
  const auto padded = [&](const std::string& name) {
    std::vector<at::Tensor> all;
    for (const int64_t i : conversations) {
      const auto rows = rows_of(rows_[static_cast<size_t>(i)], name).slice(0, 0, max_length);
      all.push_back(at::constant_pad_nd(rows, {0, 0, 0, width - rows.size(0)}));
    }
    return at::stack(all);
  };
  StoredBaseOutputs outputs{.last_hidden = padded("last_hidden"), .is_prenorm = is_prenorm_};
  std::vector<at::Tensor> states;
  for (const int64_t layer : layers) states.push_back(padded(layer_name(layer)));
  if (!states.empty()) outputs.layer_outputs = at::cat(states, -1);
  return outputs;
}

std::optional<Error> HiddenStateShards::fault(int64_t conversation, int64_t max_length,
                                              const std::vector<int64_t>& layers) const {
  std::vector<std::string> names;
  for (const int64_t layer : layers) names.push_back(layer_name(layer));
  names.emplace_back("last_hidden");
  const auto& rows = rows_.at(static_cast<size_t>(conversation));
  for (const auto& name : names) {
    const auto values = rows_of(rows, name).slice(0, 0, max_length);
    const auto bad = at::logical_not(at::isfinite(values)).any(-1).nonzero();
    if (bad.numel() == 0) continue;
    return Error(ErrorCode::kNonFinite,
                 fmt::format("{}: '{}' holds values that are not finite: conversation {}, token {} "
                             "(counted from 0)",
                             printable(shards_[rows.shard].file->path().string(), 400), name,
                             conversation, bad[0].item<int64_t>()),
                 "write the hidden states again with `outrider data hidden-states`; with --dtype "
                 "bfloat16 where the base overflows float16");
  }
  return std::nullopt;
}

}  // namespace outrider
