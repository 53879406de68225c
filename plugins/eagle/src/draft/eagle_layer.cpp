#include "eagle_layer.h"

#include <ATen/ATen.h>

#include "kernels/double_norm_concat.h"
#include "outrider/ops/rms_norm.h"
#include "outrider/ops/swiglu.h"

namespace outrider::eagle {
namespace {

void reset_parameters(torch::nn::Module& module) {
  module.apply([](torch::nn::Module& child) {
    if (auto* linear = child.as<nn::Linear>()) linear->reset_parameters();
  });
}

ops::LinearInput normed_by(const nn::RmsNorm& norm, const at::Tensor& x) {
  return {{x, norm.weight}, [eps = norm.eps](const auto& sources) {
            return ops::rms_norm(sources[0], sources[1], eps);
          }};
}

ops::LinearInput kept_or_made(const ops::LinearInput& input, ops::Recompute recompute) {
  return recompute == ops::Recompute::kNothing ? input.tensor() : input;
}

}  // namespace

EagleLayer::EagleLayer(const Architecture& a, bool reads_embeddings, bool norms_hidden_twice,
                       at::TensorOptions options)
    : norms_hidden_twice_(norms_hidden_twice),
      adds_to_normed_(reads_embeddings && a.norm_before_residual),
      eps_(a.rms_norm_eps) {
  const int64_t h = a.draft_hidden_size;
  const auto make_norm = [&] { return std::make_shared<nn::RmsNorm>(h, eps_, options); };
  self_attn_ = register_module(
      "self_attn", std::make_shared<nn::Attention>(
                       nn::AttentionShape{reads_embeddings ? 2 * h : h, h, a.num_attention_heads,
                                          a.num_key_value_heads, a.head_dim, a.attention_bias},
                       options));
  mlp_ = register_module(
      "mlp", std::make_shared<nn::SwiGluMlp>(h, a.intermediate_size, a.mlp_bias, options));
  input_layernorm_ = register_module("input_layernorm", make_norm());
  post_attention_layernorm_ = register_module("post_attention_layernorm", make_norm());
  if (reads_embeddings) hidden_norm_ = register_module("hidden_norm", make_norm());
  reset_parameters(*this);
}

ops::LinearInput EagleLayer::attention_input(const at::Tensor& hidden, const at::Tensor& embeddings,
                                             ops::Recompute recompute) const {
  if (!hidden_norm_) return kept_or_made(normed_by(*input_layernorm_, hidden), recompute);
  const ops::LinearInput normed(
      {embeddings, hidden, input_layernorm_->weight, hidden_norm_->weight},
      [eps = eps_, twice = norms_hidden_twice_](const auto& x) {
        return double_norm_concat(x[0], x[1], x[2], x[3], eps, twice);
      });
  // What the attention adds to is needed by itself.
  return adds_to_normed_ ? normed.tensor() : kept_or_made(normed, recompute);
}

ops::LinearInput EagleLayer::mlp_input(const at::Tensor& residual, ops::Recompute recompute) const {
  return kept_or_made(normed_by(*post_attention_layernorm_, residual), recompute);
}

at::Tensor EagleLayer::attend(const nn::QueryKeyValue& qkv, const StepContext& context,
                              StepCache& cache) const {
  cache.steps.push_back({qkv.key, qkv.value});
  const auto& prefix = cache.steps.front();
  const std::vector<ops::DiagonalKeys> diagonals(cache.steps.begin() + 1, cache.steps.end());
  return ops::prefix_diagonal_attention(qkv.query, prefix.key, prefix.value, diagonals,
                                        context.key_mask, context.diagonal_masks,
                                        context.documents);
}

// Rows beyond one's own are another process's: zeros here, and nothing that counts reads them.
at::Tensor EagleLayer::attend_shared(const nn::QueryKeyValue& rows, const StepContext& context,
                                     StepCache& cache) const {
  const auto& [share, count, length] = *context.part;
  const auto own = [count = count](const at::Tensor& x) { return x.slice(2, 0, count); };
  const auto heads = nn::rows_to_heads({own(rows.query), own(rows.key), own(rows.value)}, share);
  const auto attended = ops::heads_to_rows(attend(heads, context, cache), share);
  return at::constant_pad_nd(attended, {0, 0, 0, rows.query.size(2) - count});
}

at::Tensor EagleLayer::forward(const at::Tensor& hidden, const StepContext& context,
                               StepCache& cache) const {
  const auto input = attention_input(hidden, context.embeddings, context.recompute);
  const auto qkv = self_attn_->project(input, context.rotary);
  const auto attended =
      context.part ? attend_shared(qkv, context, cache) : attend(qkv, context, cache);
  return after_attention(hidden, input, attended, context.recompute);
}

at::Tensor EagleLayer::forward(const at::Tensor& hidden, const at::Tensor& embeddings,
                               const nn::CosSin& rotary, nn::CachedPass& pass,
                               int64_t layer) const {
  constexpr auto kNothing = ops::Recompute::kNothing;
  const auto input = attention_input(hidden, embeddings, kNothing);
  if (const auto few = pass.may_be_few() ? few_rows_layer() : std::nullopt) {
    const auto carried = carried_by(hidden, input).contiguous();
    if (auto y = pass.few_rows(layer, *few, input.tensor(), carried, rotary)) return *std::move(y);
  }
  return after_attention(hidden, input, pass.attend(layer, self_attn_->project(input, rotary)),
                         kNothing);
}

std::optional<nn::FewRowsLayer> EagleLayer::few_rows_layer() const {
  return nn::few_rows_layer(/*input_norm=*/nullptr, *self_attn_, *post_attention_layernorm_, *mlp_);
}

bool EagleLayer::takes_few_rows(const at::Tensor& rows) const {
  const auto few = few_rows_layer();
  if (!few) return false;
  const auto input = hidden_norm_ ? at::cat({rows, rows}, -1) : rows;
  return nn::takes_few_rows(*few, input, rows);
}

// What the attention is added to.
at::Tensor EagleLayer::carried_by(const at::Tensor& hidden, const ops::LinearInput& input) const {
  return adds_to_normed_ ? input.sources().front().slice(-1, hidden.size(-1)) : hidden;
}

at::Tensor EagleLayer::after_attention(const at::Tensor& hidden, const ops::LinearInput& input,
                                       const at::Tensor& attended, ops::Recompute recompute) const {
  const auto residual = carried_by(hidden, input) + self_attn_->output(attended);
  return residual + mlp_->forward(mlp_input(residual, recompute), recompute);
}

at::Tensor EagleLayer::projections_read(const at::Tensor& hidden,
                                        const at::Tensor& embeddings) const {
  return attention_input(hidden, embeddings, ops::Recompute::kNothing).tensor();
}

EagleLayer::Attended EagleLayer::attended(const at::Tensor& hidden, const at::Tensor& embeddings,
                                          const nn::CosSin& rotary) const {
  const auto input = attention_input(hidden, embeddings, ops::Recompute::kNothing);
  const auto qkv = self_attn_->project(input, rotary);
  return {nn::rows_of_heads(ops::causal_attention(qkv.query, qkv.key, qkv.value)),
          carried_by(hidden, input)};
}

at::Tensor EagleLayer::residual(const Attended& attended) const {
  return attended.carried + self_attn_->o_proj->forward(attended.rows);
}

at::Tensor EagleLayer::down_reads(const at::Tensor& residual) const {
  const auto x = mlp_input(residual, ops::Recompute::kNothing).tensor();
  return ops::swiglu(mlp_->gate_proj->forward(x), mlp_->up_proj->forward(x));
}

}  // namespace outrider::eagle
