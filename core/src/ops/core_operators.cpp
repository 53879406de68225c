#include "ops/core_operators.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <optional>
#include <string>

#include "outrider/error.h"
#include "outrider/ops/attention.h"
#include "outrider/ops/streaming_cross_entropy.h"
#include "outrider/text.h"

namespace outrider {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

// Undefined where there is none.
at::Tensor tensor_of(const MaybeTensor& tensor) { return tensor.value_or(at::Tensor()); }

at::Tensor run_causal_attention(const at::Tensor& query, const at::Tensor& key,
                                const at::Tensor& value, const MaybeTensor& key_mask,
                                std::optional<int64_t> window) {
  return ops::causal_attention(query, key, value, tensor_of(key_mask), window);
}

at::Tensor run_prefix_diagonal_attention(const at::Tensor& query, const at::Tensor& prefix_key,
                                         const at::Tensor& prefix_value,
                                         const at::Tensor& diagonal_keys,
                                         const at::Tensor& diagonal_values,
                                         const MaybeTensor& key_mask,
                                         const MaybeTensor& diagonal_masks) {
  std::vector<ops::DiagonalKeys> diagonals;
  for (int64_t j = 0; j < diagonal_keys.size(0); ++j) {
    diagonals.push_back({diagonal_keys[j], diagonal_values[j]});
  }
  std::vector<at::Tensor> masks;
  if (diagonal_masks) masks = diagonal_masks->unbind(0);
  return ops::prefix_diagonal_attention(query, prefix_key, prefix_value, diagonals,
                                        tensor_of(key_mask), masks);
}

at::Tensor run_label_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                   const at::Tensor& labels, const at::Tensor& row_weights,
                                   const MaybeTensor& head_bias) {
  return ops::streaming_cross_entropy(students, head_weight, labels, row_weights,
                                      tensor_of(head_bias))
      .total;
}

at::Tensor run_teacher_cross_entropy(const at::Tensor& students, const at::Tensor& head_weight,
                                     const at::Tensor& teacher_rows,
                                     const at::Tensor& teacher_weight,
                                     const at::Tensor& row_weights, const MaybeTensor& head_bias,
                                     c10::string_view divergence) {
  const auto known = divergence_of(divergence);
  if (!known) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("teacher_cross_entropy: no divergence '{}'", printable(divergence)));
  }
  const ops::TeacherTargets teacher{
      teacher_rows, [&](const at::Tensor& rows) { return at::linear(rows, teacher_weight); }};
  return ops::streaming_cross_entropy(students, head_weight, teacher, row_weights,
                                      tensor_of(head_bias), *known)
      .total;
}

struct AttentionSizes {
  int64_t heads, key_heads, length, head_dim;
};

constexpr AttentionSizes kAttentionSizes[] = {{2, 2, 5, 8}, {4, 2, 9, 16}, {3, 1, 12, 5}};

at::Tensor sample(at::IntArrayRef sizes, at::ScalarType type) {
  return at::randn(sizes, at::TensorOptions().dtype(type));
}

// The second sequence begins with two positions that must not be seen.
at::Tensor left_padding(int64_t length) {
  auto mask = at::ones({2, length}, at::kBool);
  mask[1].slice(0, 0, 2).fill_(false);
  return mask;
}

std::vector<OperatorInputs> causal_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  for (const auto& [heads, key_heads, length, dim] : kAttentionSizes) {
    const auto keys = [&] { return sample({2, key_heads, length, dim}, type); };
    const auto add = [&](const MaybeTensor& mask, std::optional<int64_t> window) {
      samples.push_back({sample({2, heads, length, dim}, type), keys(), keys(), mask, window});
    };
    add({}, {});
    add(left_padding(length), {});
    add({}, 3);
  }
  return samples;
}

std::vector<OperatorInputs> diagonal_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  int64_t count = 0;
  for (const auto& [heads, key_heads, length, dim] : kAttentionSizes) {
    ++count;
    const auto keys = [&] { return sample({2, key_heads, length, dim}, type); };
    const auto diagonals = [&] { return sample({count, 2, key_heads, length, dim}, type); };
    const auto add = [&](const MaybeTensor& mask, const MaybeTensor& masks) {
      samples.push_back({sample({2, heads, length, dim}, type), keys(), keys(), diagonals(),
                         diagonals(), mask, masks});
    };
    add({}, {});
    add(left_padding(length), left_padding(length).expand({count, 2, length}));
  }
  return samples;
}

struct LossSizes {
  int64_t steps, rows, hidden, vocabulary;
};

constexpr LossSizes kLossSizes[] = {{1, 5, 4, 7}, {3, 6, 16, 40}, {2, 19, 8, 300}};

// Small enough for probabilities that are no 0 or 1.
at::Tensor head_sample(int64_t vocabulary, int64_t hidden, at::ScalarType type) {
  return sample({vocabulary, hidden}, type) * 0.5;
}

std::vector<OperatorInputs> label_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  for (const auto& [steps, rows, hidden, vocabulary] : kLossSizes) {
    for (const bool has_bias : {false, true}) {
      const MaybeTensor bias = has_bias ? MaybeTensor(sample({vocabulary}, type)) : MaybeTensor();
      samples.push_back({sample({steps, rows, hidden}, type), head_sample(vocabulary, hidden, type),
                         at::randint(vocabulary, {rows}, at::kLong),
                         at::rand({steps, rows}, at::TensorOptions().dtype(type)) / rows, bias});
    }
  }
  return samples;
}

// Where p and q of a token are near each other, rounded logits change which is larger and with that
// the gradient: what two types make of it cannot be compared.
bool has_kink(Divergence divergence) {
  return divergence == Divergence::kTotalVariation || divergence == Divergence::kLogAcceptance;
}

std::vector<OperatorInputs> teacher_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  for (auto inputs : label_samples(type)) {
    const auto students = inputs[0].toTensor(), head = inputs[1].toTensor();
    const int64_t hidden = students.size(2) + 2;  // the teacher may be wider
    for (const auto& known : kDivergenceNames) {
      if (type == at::kBFloat16 && has_kink(known.divergence)) continue;
      samples.push_back({students, head, sample({students.size(1), hidden}, type),
                         head_sample(head.size(0), hidden, type), inputs[3], inputs[4],
                         std::string(known.name)});
    }
  }
  return samples;
}

template <class Function>
void add_operator(torch::Library& definitions, const char* schema, Function* function) {
  definitions.def(schema, torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, function));
}

}  // namespace

std::vector<OperatorSpec> register_core_operators() {
  auto& library = define_operator_namespace(kCoreNamespace);
  add_operator(library,
               "causal_attention(Tensor query, Tensor key, Tensor value, Tensor? key_mask=None, "
               "int? window=None) -> Tensor",
               run_causal_attention);
  add_operator(library,
               "prefix_diagonal_attention(Tensor query, Tensor prefix_key, Tensor prefix_value, "
               "Tensor diagonal_keys, Tensor diagonal_values, Tensor? key_mask=None, "
               "Tensor? diagonal_masks=None) -> Tensor",
               run_prefix_diagonal_attention);
  add_operator(library,
               "label_cross_entropy(Tensor students, Tensor head_weight, Tensor labels, "
               "Tensor row_weights, Tensor? head_bias=None) -> Tensor",
               run_label_cross_entropy);
  add_operator(library,
               "teacher_cross_entropy(Tensor students, Tensor head_weight, Tensor teacher_rows, "
               "Tensor teacher_weight, Tensor row_weights, Tensor? head_bias=None, "
               "str divergence=\"cross_entropy\") -> Tensor",
               run_teacher_cross_entropy);
  return {
      {.name = "outrider::causal_attention", .sample_inputs = causal_samples},
      {.name = "outrider::prefix_diagonal_attention", .sample_inputs = diagonal_samples},
      {.name = "outrider::label_cross_entropy", .sample_inputs = label_samples, .constants = {3}},
      {.name = "outrider::teacher_cross_entropy",
       .sample_inputs = teacher_samples,
       .constants = {2, 3, 4}},
      define_rms_norm(),
      define_rotary(),
      define_swiglu()};
}

}  // namespace outrider
