#include "stored_sizes.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace outrider::eagle {
namespace {

using Size = std::optional<int64_t>;

// What most readers give a draft, and the defaults have.
constexpr int64_t kUsualLayersRead = 3;

Size size_in(const Json& config, const char* key) {
  const auto value = config.value(key, Json());
  if (!value.is_number_integer() || value <= 0) return {};
  return value.get<int64_t>();
}

class Corrections {
 public:
  Corrections(const TensorMap& tensors, std::string first_layer)
      : tensors_(tensors), first_layer_(std::move(first_layer)) {}

  Size size(const std::string& name, int64_t dimension = 0) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.dim() <= dimension) return {};
    return found->second.size(dimension);
  }
  Size in_first_layer(const std::string& name) const { return size(first_layer_ + name); }

  /// Values that are no sizes at all are left for the reader of the config to complain about.
  void put(Json& config, const char* key, Size found) {
    if (!found) return;
    const auto given = config.value(key, Json());
    const auto usable = size_in(config, key);
    if (!given.is_null() && (!usable || usable == found)) return;
    if (usable) {
      notes.push_back(fmt::format("config.json has {} {}, the tensors {}: the tensors count", key,
                                  *usable, *found));
    }
    config[key] = *found;
  }

  Size layer_count() const {
    if (first_layer_ != DraftLayout{}.first_layer) return 1;
    int64_t count = 0;
    while (has_prefix(fmt::format("layers.{}.", count))) ++count;
    return count == 0 ? Size() : count;
  }

  std::vector<std::string> notes;

 private:
  bool has_prefix(const std::string& prefix) const {
    const auto found = tensors_.lower_bound(prefix);
    return found != tensors_.end() && found->first.starts_with(prefix);
  }

  const TensorMap& tensors_;
  std::string first_layer_;
};

// Without a map of the draft's tokens its head is over all of them.
Size whole_vocabulary(const Corrections& corrections) {
  for (const char* name : {"t2d", "embed_tokens.weight"}) {
    if (const auto size = corrections.size(name)) return size;
  }
  return corrections.size("d2t") ? Size() : corrections.size("lm_head.weight");
}

void correct_vocabularies(DecoderMeaning& meaning, Corrections& corrections) {
  const auto head = corrections.size("lm_head.weight"), d2t = corrections.size("d2t");
  corrections.put(meaning.decoder, "vocab_size", whole_vocabulary(corrections));
  const auto draft = head ? head : d2t;
  const bool said = !meaning.draft_vocab_size.is_null();
  if (!said && (!draft || draft == size_in(meaning.decoder, "vocab_size"))) return;
  Json holder = {{"draft_vocab_size", meaning.draft_vocab_size}};
  corrections.put(holder, "draft_vocab_size", draft);
  meaning.draft_vocab_size = holder["draft_vocab_size"];
}

struct Heads {
  int64_t queries, keys, size;
};

bool is_possible(const Heads& heads, int64_t query_rows, int64_t key_rows) {
  return heads.queries > 0 && heads.keys > 0 && heads.size > 0 && heads.size % 2 == 0 &&
         heads.queries * heads.size == query_rows && heads.keys * heads.size == key_rows &&
         heads.queries % heads.keys == 0;
}

// Rows tell the product of number and size of the heads alone: one of the two must be believed.
void correct_heads(Json& decoder, Corrections& corrections, ConfigProblems& problems) {
  const auto query_rows = corrections.in_first_layer("self_attn.q_proj.weight"),
             key_rows = corrections.in_first_layer("self_attn.k_proj.weight"),
             queries = size_in(decoder, "num_attention_heads"),
             hidden = size_in(decoder, "hidden_size"), said = size_in(decoder, "head_dim");
  if (!query_rows || !key_rows || !queries || !hidden) return;
  const int64_t keys = size_in(decoder, "num_key_value_heads").value_or(*queries);
  const int64_t size = said.value_or(*hidden / *queries);
  if (is_possible({*queries, keys, size}, *query_rows, *key_rows)) return;
  const Heads resized{*queries, keys, *query_rows / *queries};
  const Heads recounted{*query_rows / std::max<int64_t>(1, size),
                        *key_rows / std::max<int64_t>(1, size), size};
  const bool by_size = said && is_possible(recounted, *query_rows, *key_rows);
  const bool by_count = is_possible(resized, *query_rows, *key_rows);
  problems.when(by_size && by_count,
                fmt::format("config.json has {} heads of {}, the tensors {} rows of queries: are "
                            "these {} heads of {}, or {} of {}? Correct num_attention_heads and "
                            "num_key_value_heads, or head_dim",
                            *queries, size, *query_rows, recounted.queries, recounted.size,
                            resized.queries, resized.size));
  if (by_size == by_count) return;
  const auto& heads = by_size ? recounted : resized;
  corrections.put(decoder, "num_attention_heads", heads.queries);
  corrections.put(decoder, "num_key_value_heads", heads.keys);
  corrections.put(decoder, "head_dim", heads.size);
}

bool reads_layers(const DecoderMeaning& meaning) {
  return meaning.architecture.value("use_aux_hidden_state", Json(true)) != false;
}

// fc reads K layers of the base's width, which its columns tell as a product.
void settle_base_width(DecoderMeaning& meaning, const DraftLayout& layout,
                       const Corrections& corrections, ConfigProblems& problems) {
  const auto hidden = size_in(meaning.decoder, "hidden_size");
  const auto columns = corrections.size("fc.weight", 1);
  const auto said = size_in(meaning.decoder, "target_hidden_size");
  meaning.base_width = said ? said : hidden;
  if (!columns || !hidden || !reads_layers(meaning)) return;
  const auto named = static_cast<int64_t>(meaning.aux_layer_ids.size());
  const bool is_usual = *columns == kUsualLayersRead * *hidden;
  if (!said && named > 0 && !is_usual && *columns % named == 0) {
    meaning.base_width = *columns / named;
  }
  const int64_t read = *columns % *meaning.base_width == 0 ? *columns / *meaning.base_width : 0;
  problems
      .when(
          named > 0 && read != named,
          fmt::format("'{}' names {} layers of the base, of a width of {}, but fc.weight reads {} "
                      "columns",
                      layout.layers_key, named, *meaning.base_width, *columns))
      .when(named == 0 && read != kUsualLayersRead,
            fmt::format("fc.weight reads {} columns, which are not the usual three layers of a "
                        "width of {}: {}",
                        *columns, *meaning.base_width,
                        layout.layers_key.empty()
                            ? "this format has no other"
                            : fmt::format("'{}' must name them, and 'target_hidden_size' the "
                                          "base's width where it is another",
                                          layout.layers_key)));
}

}  // namespace

std::vector<std::string> correct_sizes(DecoderMeaning& meaning, const DraftFiles& files,
                                       const DraftLayout& layout, ConfigProblems& problems) {
  Corrections corrections(files.tensors, layout.first_layer);
  auto& decoder = meaning.decoder;
  const auto width = corrections.size("fc.weight");
  corrections.put(decoder, "hidden_size", width ? width : corrections.size("norm.weight"));
  corrections.put(decoder, "num_hidden_layers", corrections.layer_count());
  corrections.put(decoder, "intermediate_size", corrections.in_first_layer("mlp.gate_proj.weight"));
  correct_vocabularies(meaning, corrections);
  correct_heads(decoder, corrections, problems);
  settle_base_width(meaning, layout, corrections, problems);
  return corrections.notes;
}

}  // namespace outrider::eagle
