#include "outrider/ops/rotary.h"

#include <ATen/ATen.h>

#include <array>

#include "kernels/cuda/rotary.h"
#include "ops/core_operators.h"
#include "outrider/kernels/launch.h"
#include "outrider/ops/fused_operator.h"
#include "outrider/ops/input_checks.h"

namespace outrider {
namespace {

using at::Tensor;

bool are_tables_of(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  return x.dim() == 4 && cos.dim() == 4 && cos.sizes() == sin.sizes() && cos.size(1) == 1 &&
         (cos.size(0) == 1 || cos.size(0) == x.size(0)) && cos.size(2) == x.size(2) &&
         cos.size(3) % 2 == 0 && cos.size(3) > 0 && cos.size(3) <= x.size(3);
}

// (-x2, x1) of x = (x1, x2).
Tensor rotate_half(const Tensor& x) {
  const auto halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}

// Applies `turn` to the first dimensions, and keeps the others.
template <class Turn>
Tensor turned(const Tensor& x, int64_t rotated, const Turn& turn) {
  if (rotated == x.size(-1)) return turn(x);
  return at::cat({turn(x.slice(-1, 0, rotated)), x.slice(-1, rotated)}, -1);
}

struct RotaryOperator {
  static constexpr char kName[] = "outrider::rotary";
  static constexpr char kArguments[] = "(Tensor x, Tensor cos, Tensor sin) -> Tensor";
  static constexpr std::array kKept = {false, true, true};

  static void check(const Tensor& x, const Tensor& cos, const Tensor& sin) {
    const std::vector<NamedInput> inputs = {{"x", x}, {"cos", cos}, {"sin", sin}};
    require_inputs(are_alike(inputs) && are_tables_of(x, cos, sin), "rotary",
                   "x [B,H,S,D], cos and sin [1 or B,1,S,R], all of one type and device", inputs);
  }

  struct Composed {
    static Tensor forward(const Tensor& x, const Tensor& cos, const Tensor& sin) {
      return turned(x, cos.size(-1),
                    [&](const Tensor& part) { return part * cos + rotate_half(part) * sin; });
    }

    // rotate_half's transpose is its negative.
    static Gradients<3> backward(const Tensor& grad, const Tensor&, const Tensor& cos,
                                 const Tensor& sin, Wanted<3>) {
      return {turned(grad, cos.size(-1),
                     [&](const Tensor& part) { return part * cos - rotate_half(part * sin); }),
              Tensor(), Tensor()};
    }
  };

  struct Cuda {
    static bool is_built() { return cuda::rotary != nullptr; }

    // Vectors whose elements lie beside each other.
    static Tensor by_vectors(const Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); }

    // Those of some positions are read where they lie among all.
    static bool has_whole_tables(const Tensor& x) {
      return x.stride(3) == 1 && x.stride(2) == x.size(3);
    }

    static Tensor turn(const char* name, const Tensor& x, const Tensor& cos, const Tensor& sin,
                       bool inverse) {
      const auto in = by_vectors(x);
      const auto y =
          at::empty({in.size(0), in.size(2), in.size(1), in.size(3)}, in.options()).transpose(1, 2);
      run(name, {heads_of(in, y), {}}, x, cos, sin, inverse);
      return y;
    }

    static cuda::RotaryStrides strides_of(const Tensor& x) {
      return {x.stride(0), x.stride(1), x.stride(2)};
    }

    static cuda::RotaryHeads heads_of(const Tensor& x, const Tensor& y) {
      return {x.size(1), x.const_data_ptr(), strides_of(x), y.data_ptr(), strides_of(y)};
    }

    static void run(const char* name, const cuda::RotaryPair& heads, const Tensor& like,
                    const Tensor& cos, const Tensor& sin, bool inverse) {
      const kernels::Launch launch(name, like);
      const bool are_readable = has_whole_tables(cos) && cos.strides() == sin.strides();
      const auto c = are_readable ? cos : cos.contiguous();
      const auto s = are_readable ? sin : sin.contiguous();
      const cuda::RotaryShape shape{launch.type(), like.size(0), like.size(2),
                                    like.size(3),  c.size(3),    c.size(0) == 1 ? 0 : c.stride(0)};
      launch.check(cuda::rotary(shape, heads, c.const_data_ptr(), s.const_data_ptr(), inverse,
                                launch.stream()));
    }

    static void turn_in_place(const Tensor& query, const Tensor& key, const Tensor& cos,
                              const Tensor& sin) {
      run("rotate_in_place", {heads_of(query, query), heads_of(key, key)}, query, cos, sin,
          /*inverse=*/false);
    }

    static Tensor forward(const Tensor& x, const Tensor& cos, const Tensor& sin) {
      return turn("rotary", x, cos, sin, /*inverse=*/false);
    }

    static Gradients<3> backward(const Tensor& grad, const Tensor&, const Tensor& cos,
                                 const Tensor& sin, Wanted<3>) {
      return {turn("rotary_backward", grad, cos, sin, /*inverse=*/true), Tensor(), Tensor()};
    }
  };
};

struct RotarySizes {
  int64_t batch, heads, length, head_dim, rotated;
};

std::vector<OperatorInputs> rotary_samples(at::ScalarType type) {
  std::vector<OperatorInputs> samples;
  const auto options = at::TensorOptions().dtype(type);
  for (const auto& [batch, heads, length, head_dim, rotated] :
       {RotarySizes{2, 3, 5, 8, 8}, {1, 2, 7, 96, 24}, {3, 1, 4, 14, 6}, {2, 4, 3, 64, 64}}) {
    for (const int64_t tables : {int64_t{1}, batch}) {
      const auto angles = at::randn({tables, 1, length, rotated}, options);
      samples.push_back({at::randn({batch, length, heads, head_dim}, options).transpose(1, 2),
                         angles.cos(), angles.sin()});
    }
  }
  return samples;
}

}  // namespace

OperatorSpec define_rotary() {
  return FusedOperator<RotaryOperator>::define(
      {.sample_inputs = rotary_samples, .constants = {1, 2}});
}

at::Tensor ops::rotary(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  if (cos.scalar_type() != x.scalar_type()) return RotaryOperator::Composed::forward(x, cos, sin);
  require_core_operators();
  return FusedOperator<RotaryOperator>::call(x, cos, sin);
}

void ops::rotate_in_place(const at::Tensor& query, const at::Tensor& key, const at::Tensor& cos,
                          const at::Tensor& sin) {
  using Cuda = RotaryOperator::Cuda;
  RotaryOperator::check(query, cos, sin);
  RotaryOperator::check(key, cos, sin);
  const bool lie_together = query.stride(3) == 1 && key.stride(3) == 1;
  if (query.is_cuda() && Cuda::is_built() && lie_together) {
    return Cuda::turn_in_place(query, key, cos, sin);
  }
  for (const auto& x : {query, key}) x.copy_(ops::rotary(x, cos, sin));
}

}  // namespace outrider
