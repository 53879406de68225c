#include "warm_start.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

namespace outrider::eagle {
namespace {

using Parameters = torch::OrderedDict<std::string, at::Tensor>;

struct Copy {
  at::Tensor to, from;
};

// The parameter's right half where the draft's is twice as wide, [e ; g] instead of h.
at::Tensor matching_part(const at::Tensor& draft, const at::Tensor& base) {
  const bool twice_as_wide = draft.dim() == 2 && base.dim() == 2 && draft.size(0) == base.size(0) &&
                             draft.size(1) == 2 * base.size(1);
  return twice_as_wide ? draft.slice(1, base.size(1)) : draft;
}

bool plan(const Parameters& draft, const std::string& name, const BaseView& base,
          const std::string& base_name, std::vector<Copy>& copies) {
  const auto* to = draft.find(name);
  if (!to) return true;
  const auto from = base.parameter(base_name);
  if (!from.defined()) return false;
  const auto part = matching_part(*to, from);
  if (part.sizes() != from.sizes()) return false;
  copies.push_back({part, from});
  return true;
}

// A layer is copied whole or not at all: half of one computes nothing useful.
void copy_layer(const Parameters& draft, const std::string& prefix, const BaseView& base,
                const std::string& base_prefix) {
  std::vector<Copy> copies;
  const bool reads_embeddings = draft.contains(prefix + "hidden_norm.weight");
  bool fits =
      plan(draft, prefix + (reads_embeddings ? "hidden_norm" : "input_layernorm") + ".weight", base,
           base_prefix + "input_layernorm.weight", copies);
  for (const char* part :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"}) {
    for (const char* kind : {".weight", ".bias"}) {
      fits = fits && plan(draft, prefix + part + kind, base, base_prefix + part + kind, copies);
    }
  }
  if (!fits) return;
  for (const auto& copy : copies) copy.to.copy_(copy.from);
}

// fc [h, K·h] over the layers in ascending order: the identity on the last.
void pass_highest_layer(const at::Tensor& fc) {
  const int64_t size = fc.size(0);
  fc.zero_();
  fc.slice(1, fc.size(1) - size).copy_(at::eye(size, fc.options()));
}

int64_t layer_count(const Parameters& draft) {
  int64_t count = 0;
  while (draft.contains(fmt::format("layers.{}.mlp.down_proj.weight", count))) ++count;
  return count;
}

}  // namespace

void warm_start(torch::nn::Module& draft, const BaseView& base) {
  const auto own = draft.named_parameters();
  std::vector<Copy> alike;
  plan(own, "norm.weight", base, "model.norm.weight", alike);
  plan(own, "embed_tokens.weight", base, "model.embed_tokens.weight", alike);
  for (const auto& copy : alike) copy.to.copy_(copy.from);
  const auto* fc = own.find("fc.weight");
  if (fc && fc->size(0) == base.config().hidden_size) pass_highest_layer(*fc);
  const int64_t layers = layer_count(own), first = base.config().num_hidden_layers - layers;
  for (int64_t i = 0; i < layers; ++i) {
    copy_layer(own, fmt::format("layers.{}.", i), base, fmt::format("model.layers.{}.", first + i));
  }
}

}  // namespace outrider::eagle
