#include "ops/few_rows_on_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>

#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/instruction_set.h"

namespace outrider::ops::on_cpu {
namespace {

using kernels::cpu::FewRows;
using kernels::cpu::FewRowsKernels;
using kernels::cpu::InstructionSet;

// Beyond, a product is limited by arithmetic, which LibTorch's is better at.
constexpr int64_t kMostRows = 16;
// Multiplications that are worth a thread.
constexpr int64_t kWorkOfThread = 1 << 15;

const FewRowsKernels& few_rows_kernels() {
  static const FewRowsKernels& best = [&]() -> const FewRowsKernels& {
    switch (kernels::cpu::best_instruction_set()) {
#if defined(__x86_64__)
      case InstructionSet::kAvx512:
        return kernels::cpu::few_rows_avx512();
      case InstructionSet::kAvx2:
        return kernels::cpu::few_rows_avx2();
#endif
      default:
        return kernels::cpu::few_rows_baseline();
    }
  }();
  return best;
}

int64_t grain_of(int64_t work_of_one) {
  return std::max<int64_t>(1, kWorkOfThread / (work_of_one + 1));
}

bool is_readable(const at::Tensor& x) {
  return x.is_cpu() && x.is_contiguous() &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

// Rows are float or bfloat16, the upper half of a float, here a uint16_t.
float wide(float x) { return x; }
float wide(uint16_t bits) { return c10::BFloat16(bits, c10::BFloat16::from_bits()); }

// The nearest, of two as near the even one.
template <class T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return c10::BFloat16(x).x;
  }
}

template <class T>
void widen(const T* from, int64_t count, float* to) {
  std::transform(from, from + count, to, [](T x) { return wide(x); });
}
template <class T>
void narrow(const float* from, int64_t count, T* to) {
  std::transform(from, from + count, to, [](float x) { return narrow<T>(x); });
}

/// What values become where they are kept as T.
template <class T>
void round_in_place(float* values, int64_t count) {
  if constexpr (std::is_same_v<T, float>) return;
  std::transform(values, values + count, values, [](float x) { return wide(narrow<T>(x)); });
}

template <class T>
T* elements(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}
template <class T>
const T* const_elements(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

std::vector<float> widened_values(const at::Tensor& x) {
  std::vector<float> values(static_cast<size_t>(x.numel()));
  x.scalar_type() == at::kFloat ? widen(const_elements<float>(x), x.numel(), values.data())
                                : widen(const_elements<uint16_t>(x), x.numel(), values.data());
  return values;
}

/// The rows of a product, normed where that is asked for.
template <class T>
class NormedRows {
 public:
  NormedRows(const at::Tensor& x, const NormBefore& norm) {
    if constexpr (std::is_same_v<T, float>) {
      first_ = const_elements<float>(x);
    } else {
      wide_ = widened_values(x);
      first_ = wide_.data();
    }
    if (!norm.weight.defined()) return;
    const auto weight = widened_values(norm.weight);
    const int64_t size = x.size(-1);
    normed_.resize(static_cast<size_t>(x.numel()));
    for (int64_t at = 0; at < x.numel(); at += size) {
      few_rows_kernels().norm(first_ + at, weight.data(), size, static_cast<float>(norm.eps),
                              normed_.data() + at);
    }
    round_in_place<T>(normed_.data(), x.numel());
    first_ = normed_.data();
  }
  const float* data() const { return first_; }

 private:
  const float* first_;
  std::vector<float> wide_, normed_;
};

struct Range {
  int64_t begin, end;
};

/// One layer's product into columns of y, whose values are such as T keeps.
template <class T>
class LayerProduct {
 public:
  LayerProduct(const LinearParameters& layer, const float* x, int64_t rows, float* y,
               int64_t stride)
      : product_{x,     layer.weight.const_data_ptr(), y,
                 rows,  layer.weight.size(1),          layer.weight.size(0),
                 stride},
        is_float_(layer.weight.scalar_type() == at::kFloat) {
    if (layer.bias.defined()) bias_ = widened_values(layer.bias);
  }

  int64_t outputs() const { return product_.outputs; }
  void compute(Range outputs) const {
    const auto& kernels = few_rows_kernels();
    (is_float_ ? kernels.of_float : kernels.of_bfloat16)(product_, outputs.begin, outputs.end);
    for (int64_t row = 0; row < product_.rows; ++row) {
      finish(product_.y + row * product_.stride, outputs);
    }
  }

 private:
  void finish(float* y, Range outputs) const {
    if (!bias_.empty()) {
      for (int64_t i = outputs.begin; i < outputs.end; ++i) y[i] += bias_[static_cast<size_t>(i)];
    }
    round_in_place<T>(y + outputs.begin, outputs.end - outputs.begin);
  }

  FewRows product_;
  bool is_float_;
  std::vector<float> bias_;
};

template <class T>
void add_residual(const at::Tensor& residual, float* y) {
  const auto* from = const_elements<T>(residual);
  for (int64_t i = 0; i < residual.numel(); ++i) y[i] += wide(from[i]);
}

// All outputs are shared among the threads at once.
template <class T>
void multiply_side_by_side(const std::vector<LayerProduct<T>>& products, int64_t work) {
  int64_t total = 0;
  for (const auto& product : products) total += product.outputs();
  at::parallel_for(0, total, grain_of(work), [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (const auto& product : products) {
      const Range own{std::max<int64_t>(begin - first, 0),
                      std::min(end - first, product.outputs())};
      if (own.begin < own.end) product.compute(own);
      first += product.outputs();
    }
  });
}

template <class T>
void multiply_gated(const LayerProduct<T>& gate, const LayerProduct<T>& up, const float* gates,
                    const float* ups, int64_t rows, int64_t work, float* y) {
  const int64_t width = gate.outputs();
  at::parallel_for(0, width, grain_of(2 * work), [&](int64_t begin, int64_t end) {
    gate.compute({begin, end});
    up.compute({begin, end});
    for (int64_t at = begin; at < rows * width; at += width) {
      few_rows_kernels().gate(gates + at, ups + at, end - begin, y + at);
    }
  });
}

/// What the heads of new rows are turned by.
struct Tables {
  std::vector<float> cos, sin;

  void rotate(float* vector) const {
    const size_t half = cos.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      const float low = vector[i], high = vector[i + half];
      vector[i] = low * cos[i] - high * sin[i];
      vector[i + half] = high * cos[i + half] + low * sin[i + half];
    }
  }
};

/// One sequence's new rows: keys and values are kept behind the others, queries attend.
template <class T>
class SequenceAttention {
 public:
  SequenceAttention(const FewRowsAttention& a, int64_t sequence)
      : a_(a),
        sequence_(sequence),
        rows_(a.qkv.size(1)),
        size_(a.keys.size(3)),
        key_heads_(a.keys.size(1)),
        heads_(a.qkv.size(2) / size_ - 2 * key_heads_),
        kept_(a.lengths.const_data_ptr<int64_t>()[a.lengths.numel() == 1 ? 0 : sequence]),
        queries_(static_cast<size_t>(rows_ * heads_ * size_)) {
    if (a.query_norm.weight.defined()) query_norm_ = widened_values(a.query_norm.weight);
    if (a.key_norm.weight.defined()) key_norm_ = widened_values(a.key_norm.weight);
    for (int64_t row = 0; row < rows_; ++row) take(row);
  }

  void attend(T* y) const {
    const int64_t group = heads_ / key_heads_;
    const int64_t work = 2 * (kept_ + rows_) * size_ * rows_;
    at::parallel_for(0, heads_, grain_of(work), [&](int64_t begin, int64_t end) {
      std::vector<float> scores(static_cast<size_t>(kept_ + rows_)),
          attended(static_cast<size_t>(size_));
      for (int64_t row = 0; row < rows_; ++row) {
        const auto hidden = hidden_from(row);
        for (int64_t head = begin; head < end; ++head) {
          attend_to_keys({.query = queries_.data() + (row * heads_ + head) * size_,
                          .keys = slot(a_.keys, head / group, 0),
                          .values = slot(a_.values, head / group, 0),
                          .count = hidden ? kept_ + rows_ : kept_ + row + 1,
                          .size = size_,
                          .scale = 1.0f / std::sqrt(static_cast<float>(size_)),
                          .hidden = hidden.get(),
                          .scores = scores.data(),
                          .y = attended.data()});
          narrow(attended.data(), size_, y + ((sequence_ * rows_ + row) * heads_ + head) * size_);
        }
      }
    });
  }

 private:
  static void attend_to_keys(const kernels::cpu::AttendedQuery& query) {
    const auto& kernels = few_rows_kernels();
    (std::is_same_v<T, float> ? kernels.attend_float : kernels.attend_bfloat16)(query);
  }

  T* slot(const at::Tensor& all, int64_t head, int64_t place) const {
    return elements<T>(all) + ((sequence_ * key_heads_ + head) * all.size(2) + place) * size_;
  }

  int64_t number(int64_t row) const {
    return (a_.positions.size(0) == 1 ? 0 : sequence_) * rows_ + row;
  }
  int64_t position(int64_t row) const {
    return a_.positions.const_data_ptr<int64_t>()[number(row)];
  }

  Tables tables(int64_t row) const {
    const int64_t rotated = a_.cos.size(-1);
    const int64_t first = (a_.tables_by_position ? position(row) : number(row)) * rotated;
    Tables tables{std::vector<float>(static_cast<size_t>(rotated)),
                  std::vector<float>(static_cast<size_t>(rotated))};
    widen(const_elements<T>(a_.cos) + first, rotated, tables.cos.data());
    widen(const_elements<T>(a_.sin) + first, rotated, tables.sin.data());
    return tables;
  }

  // One head.
  void turn(const T* from, const std::vector<float>& norm, double eps, const Tables& turned,
            float* to) const {
    widen(from, size_, to);
    if (!norm.empty()) {
      few_rows_kernels().norm(to, norm.data(), size_, static_cast<float>(eps), to);
      round_in_place<T>(to, size_);
    }
    turned.rotate(to);
    round_in_place<T>(to, size_);
  }

  void take(int64_t row) {
    const auto turned = tables(row);
    const T* from =
        const_elements<T>(a_.qkv) + (sequence_ * rows_ + row) * (heads_ + 2 * key_heads_) * size_;
    for (int64_t head = 0; head < heads_; ++head, from += size_) {
      turn(from, query_norm_, a_.query_norm.eps, turned,
           queries_.data() + (row * heads_ + head) * size_);
    }
    std::vector<float> key(static_cast<size_t>(size_));
    for (int64_t head = 0; head < key_heads_; ++head, from += size_) {
      turn(from, key_norm_, a_.key_norm.eps, turned, key.data());
      narrow(key.data(), size_, slot(a_.keys, head, kept_ + row));
    }
    for (int64_t head = 0; head < key_heads_; ++head, from += size_) {
      std::copy_n(from, size_, slot(a_.values, head, kept_ + row));
    }
  }

  bool is_ancestor(int64_t row, int64_t place) const {
    if (!a_.seen.defined()) return place <= kept_ + row;
    const int64_t width = a_.seen.size(2), in_tree = place - (kept_ + rows_ - width);
    if (in_tree < 0) return true;
    const int64_t line = (a_.seen.size(0) == 1 ? 0 : sequence_) * rows_ + row;
    return a_.seen.const_data_ptr<bool>()[line * width + in_tree];
  }

  // Null where rows that follow each other see all before them.
  std::unique_ptr<bool[]> hidden_from(int64_t row) const {
    if (!a_.seen.defined() && a_.window == 0) return nullptr;
    auto hidden = std::make_unique<bool[]>(static_cast<size_t>(kept_ + rows_));
    for (int64_t place = 0; place < kept_ + rows_; ++place) {
      const int64_t at = place < kept_ ? place : position(place - kept_);
      const bool is_outside = a_.window > 0 && position(row) - at >= a_.window;
      hidden[static_cast<size_t>(place)] = is_outside || !is_ancestor(row, place);
    }
    return hidden;
  }

  const FewRowsAttention& a_;
  int64_t sequence_, rows_, size_, key_heads_, heads_, kept_;
  std::vector<float> queries_, query_norm_, key_norm_;
};

template <class T>
void multiply_few_rows(const at::Tensor& x, const NormBefore& norm,
                       const std::vector<LinearParameters>& layers, Joined joined,
                       const at::Tensor& residual, float* y, int64_t width) {
  const int64_t inner = x.size(-1), rows = x.numel() / inner;
  const NormedRows<T> normed(x, norm);
  const bool is_gated = joined == Joined::kGated;
  std::vector<float> halves(is_gated ? static_cast<size_t>(2 * rows * width) : 0);
  std::vector<LayerProduct<T>> products;
  int64_t column = 0;
  for (const auto& layer : layers) {
    float* own = is_gated ? halves.data() + column * rows : y + column;
    products.emplace_back(layer, normed.data(), rows, own, width);
    column += layer.weight.size(0);
  }
  if (is_gated) {
    multiply_gated<T>(products[0], products[1], halves.data(), halves.data() + rows * width, rows,
                      inner * rows, y);
  } else {
    multiply_side_by_side<T>(products, inner * rows);
  }
  if (residual.defined()) add_residual<T>(residual, y);
}

template <class T>
void attend_few_rows(const FewRowsAttention& attention, const at::Tensor& y) {
  for (int64_t b = 0; b < attention.qkv.size(0); ++b) {
    SequenceAttention<T>(attention, b).attend(elements<T>(y));
  }
}

}  // namespace

bool takes_few_rows(const at::Tensor& x, int64_t rows, int64_t inner,
                    const std::vector<LinearParameters>& layers) {
  if (!is_readable(x) || rows > kMostRows) return false;
  return std::ranges::all_of(layers, [&](const LinearParameters& layer) {
    return is_readable(layer.weight) && layer.weight.dim() == 2 && layer.weight.size(1) == inner &&
           (!layer.bias.defined() || is_readable(layer.bias));
  });
}

void few_rows_product(const at::Tensor& x, const NormBefore& norm,
                      const std::vector<LinearParameters>& layers, Joined joined,
                      const at::Tensor& residual, const at::Tensor& y) {
  if (x.scalar_type() == at::kFloat) {
    return multiply_few_rows<float>(x, norm, layers, joined, residual, elements<float>(y),
                                    y.size(-1));
  }
  std::vector<float> outputs(static_cast<size_t>(y.numel()));
  multiply_few_rows<uint16_t>(x, norm, layers, joined, residual, outputs.data(), y.size(-1));
  narrow(outputs.data(), y.numel(), elements<uint16_t>(y));
}

void few_rows_attention(const FewRowsAttention& attention, const at::Tensor& y) {
  y.scalar_type() == at::kFloat ? attend_few_rows<float>(attention, y)
                                : attend_few_rows<uint16_t>(attention, y);
}

}  // namespace outrider::ops::on_cpu
