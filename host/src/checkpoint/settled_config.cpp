#include "settled_config.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "outrider/checkpoint/tensor_io.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using OnNote = std::function<void(const std::string&)>;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

bool same_values(const SafetensorsFolder::Entry& one, const SafetensorsFolder::Entry& other) {
  if (one.view->dtype == other.view->dtype && one.view->shape == other.view->shape) {
    return std::ranges::equal(one.view->bytes, other.view->bytes);
  }
  const auto a = tensor_over(one.file, *one.view), b = tensor_over(other.file, *other.view);
  return a.sizes() == b.sizes() && at::equal(a, b.to(a.scalar_type()));
}

void settle_head(ModelConfig& config, const StoredEntries& stored, const OnNote& on_note) {
  const auto head = stored.find(kHead), embedding = stored.find(kEmbedding);
  if (!config.tie_word_embeddings || head == stored.end() || embedding == stored.end()) return;
  if (same_values(head->second, embedding->second)) return;
  config.tie_word_embeddings = false;
  config.raw["tie_word_embeddings"] = false;
  if (on_note) {
    on_note(
        "config.json says that the head is tied to the embedding, but lm_head.weight has values "
        "of its own: those are used");
  }
}

// Of floats in eight bits there are no models; they come with scales of their own.
bool is_model_type(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

/// The first tensor by name in the first file: whose type transformers takes.
const StoredEntries::value_type* first_float(const StoredEntries& stored) {
  const StoredEntries::value_type* first = nullptr;
  for (const auto& item : stored) {
    if (!is_model_type(item.second.view->dtype)) continue;
    if (!first || item.second.file->path() < first->second.file->path()) first = &item;
  }
  return first;
}

std::set<std::string> model_types_in(const StoredEntries& stored) {
  std::set<std::string> types;
  for (const auto& [name, entry] : stored) {
    if (is_model_type(entry.view->dtype)) types.insert(entry.view->dtype);
  }
  return types;
}

bool names_type(const Json& config) {
  return std::ranges::any_of(std::initializer_list<const char*>{"dtype", "torch_dtype"},
                             [&](auto* key) { return !config.value(key, Json()).is_null(); });
}

void settle_type(ModelConfig& config, const StoredEntries& stored, const OnNote& on_note) {
  if (names_type(config.raw)) return;
  const auto* first = first_float(stored);
  if (!first) return;
  config.dtype = tensor_over(first->second.file, *first->second.view).scalar_type();
  if (!on_note) return;
  const auto types = model_types_in(stored);
  const auto mixed = fmt::format("its tensors are of several types ({}), and {} comes first",
                                 join({types.begin(), types.end()}, ", "), in_quotes(first->first));
  on_note(fmt::format("config.json names no dtype: {}, {}", dtype_name(config.dtype),
                      types.size() > 1 ? mixed : "as its tensors have"));
}

}  // namespace

ModelConfig settled_config(ModelConfig config, const StoredEntries& stored, const OnNote& on_note) {
  settle_head(config, stored, on_note);
  settle_type(config, stored, on_note);
  return config;
}

StoredEntries with_tied_embedding(StoredEntries stored, const ModelConfig& config) {
  if (!config.tie_word_embeddings || stored.contains(kEmbedding)) return stored;
  if (auto head = stored.extract(kHead); !head.empty()) {
    head.key() = kEmbedding;
    stored.insert(std::move(head));
  }
  return stored;
}

}  // namespace outrider
