#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "checkpoint/companion_files.h"
#include "data/base_check.h"
#include "data/batches.h"
#include "machine/disk_room.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/files/json_file.h"
#include "outrider/host/hidden_state_shards.h"
#include "outrider/host/sha256.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

void check_layers(const std::vector<int64_t>& layers, int64_t count) {
  for (const int64_t layer : layers) {
    if (layer >= 0 && layer < count) continue;
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("layer {} is not there: the base has the layers 0 to {}", layer, count - 1));
  }
}

void copy_token_shards(const TokenShards& tokens, const fs::path& from, const fs::path& to) {
  copy_new_file(from / "shards.json", to / "shards.json");
  for (const auto& shard : tokens.description().at("shards")) {
    const auto name = shard.at("file").get<std::string>();
    copy_new_file(from / name, to / name);
  }
}

/// Collects rows and writes a file whenever they are many.
class Files {
 public:
  Files(fs::path folder, int64_t max_bytes) : folder_(std::move(folder)), max_bytes_(max_bytes) {}

  void add(const TensorMap& rows) {
    ++conversations_;
    tokens_ += rows.begin()->second.size(0);
    for (const auto& [name, tensor] : rows) {
      pending_[name].push_back(tensor);
      bytes_ += static_cast<int64_t>(tensor.nbytes());
    }
    if (bytes_ >= max_bytes_) flush();
  }

  void flush() {
    if (conversations_ == 0) return;
    TensorMap tensors;
    for (auto& [name, parts] : pending_) tensors[name] = at::cat(std::exchange(parts, {}), 0);
    const auto name = fmt::format("hidden-{:05d}.safetensors", list_.size());
    write_tensors(folder_ / name, tensors);
    list_.push_back({{"file", name},
                     {"sha256", sha256_of_file(folder_ / name)},
                     {"conversations", std::exchange(conversations_, 0)},
                     {"tokens", std::exchange(tokens_, 0)}});
    bytes_ = 0;
  }

  const Json& list() const { return list_; }

 private:
  fs::path folder_;
  int64_t max_bytes_, bytes_ = 0, conversations_ = 0, tokens_ = 0;
  std::map<std::string, std::vector<at::Tensor>> pending_;
  Json list_ = Json::array();
};

class Writer {
 public:
  Writer(CausalLM& model, const TokenShards& tokens, const HiddenStateOptions& options,
         const fs::path& folder)
      : model_(model), tokens_(tokens), options_(options), files_(folder, options.max_shard_size) {}

  void run() {
    std::vector<int64_t> batch;
    for (int64_t i = 0; i < tokens_.size(); ++i) {
      batch.push_back(i);
      if (static_cast<int64_t>(batch.size()) < options_.batch_size && i + 1 < tokens_.size()) {
        continue;
      }
      write(batch);
      batch.clear();
    }
    files_.flush();
  }

  const Json& files() const { return files_.list(); }

 private:
  int64_t max_length() const {
    return options_.max_length > 0 ? options_.max_length : std::numeric_limits<int64_t>::max();
  }

  void write(const std::vector<int64_t>& conversations) {
    const auto input = forward_input(tokens_.batch(conversations, max_length()), model_.device());
    const auto base = model_.run_base({.input_ids = input.batch.input_ids,
                                       .position_ids = input.batch.position_ids,
                                       .request = {.layer_outputs = options_.layers,
                                                   .last_hidden = !options_.prenorm,
                                                   .last_hidden_prenorm = options_.prenorm,
                                                   .input_embeddings = false}});
    for (size_t row = 0; row < conversations.size(); ++row) {
      const auto rows = rows_of(base, static_cast<int64_t>(row), length_of(conversations[row]));
      require_finite(rows, conversations[row]);
      files_.add(rows);
    }
    done_ += static_cast<int64_t>(conversations.size());
    if (options_.on_progress) options_.on_progress(done_, tokens_.size(), done_tokens_);
  }

  void require_finite(const TensorMap& rows, int64_t conversation) {
    for (const auto& [name, values] : rows) {
      if (at::isfinite(values).all().item<bool>()) continue;
      const auto fault = first_base_fault(model_, tokens_, conversation, max_length());
      throw base_fault_error(model_, fault.value_or(BaseFault{name, conversation, 0}));
    }
  }

  int64_t length_of(int64_t conversation) {
    const auto whole = static_cast<int64_t>(tokens_.conversation(conversation).input_ids.size());
    const int64_t length = std::min(whole, max_length());
    done_tokens_ += length;
    return length;
  }

  TensorMap rows_of(const BaseOutputs& base, int64_t row, int64_t length) const {
    const auto rows = [&](const at::Tensor& hidden) {
      return hidden[row].slice(0, 0, length).to(at::kCPU, model_.stored_dtype()).clone();
    };
    TensorMap tensors{
        {"last_hidden", rows(options_.prenorm ? base.last_hidden_prenorm : base.last_hidden)}};
    for (const auto& [layer, hidden] : base.layer_outputs) {
      tensors[fmt::format("layer.{}", layer)] = rows(hidden);
    }
    return tensors;
  }

  CausalLM& model_;
  const TokenShards& tokens_;
  const HiddenStateOptions& options_;
  Files files_;
  int64_t done_ = 0, done_tokens_ = 0;
};

/// The bytes of hidden states that a folder will hold.
uint64_t planned_bytes(const CausalLM& model, const TokenShards& tokens,
                       const HiddenStateOptions& options) {
  int64_t rows = 0;
  for (int64_t i = 0; i < tokens.size(); ++i) {
    const auto whole = static_cast<int64_t>(tokens.conversation(i).input_ids.size());
    rows += options.max_length > 0 ? std::min(whole, options.max_length) : whole;
  }
  const auto states = static_cast<int64_t>(options.layers.size()) + 1;
  return static_cast<uint64_t>(rows * states * model.config().hidden_size) *
         c10::elementSize(model.dtype());
}

Json description(const CausalLM& model, const HiddenStateOptions& options, const fs::path& folder,
                 const Json& files) {
  const auto& config = model.config();
  return {{"format_version", 1},
          {"kind", "hidden_states"},
          {"base_model",
           {{"architecture", config.architecture},
            {"hidden_size", config.hidden_size},
            {"num_hidden_layers", config.num_hidden_layers},
            {"weights_sha256", model.weights_sha256()}}},
          {"layers", options.layers},
          {"last_hidden", options.prenorm ? "before_final_norm" : "after_final_norm"},
          {"dtype", dtype_name(model.stored_dtype())},
          {"max_length", options.max_length},
          {"token_shards_sha256", sha256_of_file(folder / "shards.json")},
          {"files", files}};
}

}  // namespace

Json write_hidden_states(CausalLM& model, const fs::path& data, const fs::path& out,
                         const HiddenStateOptions& options) {
  check_layers(options.layers, model.config().num_hidden_layers);
  const auto tokens = TokenShards::open(data);
  select_conversations(tokens, model, std::numeric_limits<int64_t>::max());
  const at::NoGradGuard no_grad;
  require_free(out, "what is stored of the base", planned_bytes(model, tokens, options),
               "free some space, choose an --out on another disk, or store less: a shorter "
               "--max-length, fewer --layers, or --dtype bfloat16 for a base in float32");
  AtomicDirectory folder(out);
  copy_token_shards(tokens, data, folder.staging());
  Writer writer(model, tokens, options, folder.staging());
  writer.run();
  const auto json = description(model, options, folder.staging(), writer.files());
  write_json_file(folder.staging() / HiddenStateShards::kFileName, json);
  folder.commit();
  return json;
}

}  // namespace outrider
