#include "outrider/nn/attention.h"

#include <ATen/ATen.h>

#include <numeric>
#include <typeinfo>

namespace outrider::nn {

at::Tensor split_heads(const at::Tensor& x, int64_t heads, int64_t head_dim) {
  return x.view({x.size(0), x.size(1), heads, head_dim}).transpose(1, 2);
}

at::Tensor rows_of_heads(const at::Tensor& x) { return x.transpose(1, 2).flatten(2); }

namespace {

// Heads [B,H,L,D], in the order in which processes take them: [B,N,H/N,L,D].
at::Tensor by_process(const at::Tensor& heads, int64_t count) {
  return heads.unflatten(1, {count, -1});
}

// So that each process gets as many key heads as the others, and its query heads theirs.
at::Tensor repeated_for(const at::Tensor& keys, int64_t count) {
  const int64_t times = count / std::gcd(keys.size(1), count);
  return times == 1 ? keys : keys.repeat_interleave(times, 1);
}

}  // namespace

QueryKeyValue rows_to_heads(const QueryKeyValue& rows,
                            const std::shared_ptr<SequenceShare>& share) {
  const int64_t count = share->count(), heads = rows.query.size(1);
  ops::require_shared_heads(heads, count);
  const auto key = repeated_for(rows.key, count), value = repeated_for(rows.value, count);
  const auto all =
      at::cat({by_process(rows.query, count), by_process(key, count), by_process(value, count)}, 2);
  const auto own = ops::rows_to_heads(all.flatten(1, 2), share);
  const int64_t queries = heads / count, keys = key.size(1) / count;
  return {own.narrow(1, 0, queries), own.narrow(1, queries, keys),
          own.narrow(1, queries + keys, keys)};
}

AttentionProjections::AttentionProjections(const AttentionShape& s) : shape(s) {}

void AttentionProjections::add_output_projection(at::TensorOptions options) {
  o_proj = register_module(
      "o_proj", std::make_shared<Linear>(shape.num_heads * shape.head_dim, shape.hidden_size,
                                         shape.output_bias.value_or(shape.bias), options));
}

QueryKeyValue AttentionProjections::project(const ops::LinearInput& x, const CosSin& rotary) const {
  const auto plain = heads(x);
  const auto [query, key] = rotated(plain.query, plain.key, rotary);
  return {query, key, plain.value};
}

std::optional<FewRowsProjections> AttentionProjections::few_rows_projections() const {
  return std::nullopt;
}

at::Tensor AttentionProjections::output(const at::Tensor& attended) const {
  return o_proj->forward(rows_of_heads(attended));
}

at::Tensor AttentionProjections::add_to(const at::Tensor& residual,
                                        const at::Tensor& attended) const {
  return o_proj->add_to(residual, rows_of_heads(attended));
}

Attention::Attention(const AttentionShape& s, at::TensorOptions options) : AttentionProjections(s) {
  const auto add = [&](const char* name, int64_t num_heads) {
    return register_module(
        name, std::make_shared<Linear>(s.input_size, num_heads * s.head_dim, s.bias, options));
  };
  q_proj = add("q_proj", s.num_heads);
  k_proj = add("k_proj", s.num_key_value_heads);
  v_proj = add("v_proj", s.num_key_value_heads);
  add_output_projection(options);
}

std::optional<FewRowsProjections> Attention::few_rows_projections() const {
  return typeid(*this) == typeid(Attention) ? plain_projections() : std::nullopt;
}

std::optional<FewRowsProjections> Attention::plain_projections() const {
  auto qkv = plain_parameters({q_proj.get(), k_proj.get(), v_proj.get()});
  if (!qkv) return std::nullopt;
  return FewRowsProjections{.qkv = *std::move(qkv)};
}

QueryKeyValue Attention::heads(const ops::LinearInput& x) const {
  const int64_t key_heads = shape.num_key_value_heads;
  const auto all = outputs_of({q_proj.get(), k_proj.get(), v_proj.get()}, x);
  return {split_heads(all[0], shape.num_heads, shape.head_dim),
          split_heads(all[1], key_heads, shape.head_dim),
          split_heads(all[2], key_heads, shape.head_dim)};
}

}  // namespace outrider::nn
