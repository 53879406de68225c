#include <cfloat>
#include <cmath>

#include "kernels/cuda/cross_entropy_rows.cuh"
#include "outrider/kernels/device_launch.cuh"
#include "outrider/kernels/device_packs.cuh"
#include "outrider/kernels/device_reduce.cuh"
#include "outrider/kernels/device_whole_packs.cuh"

// One block per row. The first pass over a row finds its maximum, the sum of exponentials relative
// to it and its argmax together, rescaling the sum when a larger value turns up; the second one,
// which mostly hits the cache, computes everything else, but for gradients that need the sums of
// the second: a third. A row is never held in registers or shared memory, so any vocabulary works.

namespace outrider::kernels::cuda {
namespace {

constexpr int kThreads = 512;

// Blocks per multiprocessor that registers must suffice for; exp in float64 needs many.
template <class T>
constexpr int kBlocks = std::is_same_v<T, double> ? 1
                        : sizeof(T) == 2          ? 3
                                                  : 2;

template <class A>
__device__ A minus_infinity() {
  return -static_cast<A>(INFINITY);
}

__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }

// e^x for values that were read as T. Of a half type the device's own power of two is exact enough,
// and a third of the instructions: an error of 2^-22 where the type holds 2^-11.
template <class T>
__device__ Accumulate<T> exponential_of(Accumulate<T> x) {
  if constexpr (sizeof(T) == 2) {
    constexpr float kLog2E = 1.4426950408889634f;
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * kLog2E));
    return power;
  } else {
    return exponential(x);
  }
}

__device__ float logarithm(float x) { return logf(x); }
__device__ double logarithm(double x) { return log(x); }

// Σ exp(x - maximum) over some of a row, and the first index of the maximum. NaN never becomes the
// maximum, but makes the sum NaN.
template <class A>
struct RowState {
  A maximum = minus_infinity<A>(), sum = 0;
  int64_t argmax = INT64_MAX;

  __device__ A log_sum_exp() const { return maximum + logarithm(sum); }
  __device__ int64_t index() const { return maximum == minus_infinity<A>() ? 0 : argmax; }
};

template <class T>
__device__ void add_pack(RowState<Accumulate<T>>& state, const Pack<T>& pack, int64_t begin) {
  using A = Accumulate<T>;
  A top = pack.x[0];
#pragma unroll
  for (int i = 1; i < Pack<T>::kSize; ++i) top = fmax(top, pack.x[i]);
  if (top > state.maximum) {
    state.sum *= exponential(state.maximum - top);
    state.maximum = top;
#pragma unroll
    for (int i = Pack<T>::kSize - 1; i >= 0; --i) {
      if (pack.x[i] == top) state.argmax = begin + i;
    }
  }
  const A origin = state.maximum == minus_infinity<A>() ? A(0) : state.maximum;
#pragma unroll
  for (int i = 0; i < Pack<T>::kSize; ++i) state.sum += exponential_of<T>(pack.x[i] - origin);
}

template <class A>
__device__ RowState<A> merge(const RowState<A>& a, const RowState<A>& b) {
  const A upper = fmax(a.maximum, b.maximum), lower = fmin(a.maximum, b.maximum);
  const A scale = upper == minus_infinity<A>() ? A(1) : exponential(lower - upper);
  const bool a_is_upper = a.maximum == upper;
  RowState<A> result;
  result.maximum = upper;
  result.sum = (a_is_upper ? a.sum : b.sum) + (a_is_upper ? b.sum : a.sum) * scale;
  const bool only_b = b.maximum > a.maximum;
  const bool both = a.maximum == b.maximum;
  result.argmax = only_b || (both && b.argmax < a.argmax) ? b.argmax : a.argmax;
  return result;
}

// The state of a whole row, the same in every thread. Two packs are in flight per thread.
template <bool kWhole, class T>
__device__ RowState<Accumulate<T>> row_state(const T* row, int64_t vocab,
                                             RowState<Accumulate<T>>* scratch) {
  using A = Accumulate<T>;
  RowState<A> state;
  const int64_t stride = pack_stride<T>();
  for (int64_t begin = first_pack(row); begin < vocab; begin += 2 * stride) {
    const Pack<T> first = Packs<kWhole>::load(row, begin, vocab, minus_infinity<A>());
    const Pack<T> second = Packs<kWhole>::load(row, begin + stride, vocab, minus_infinity<A>());
    add_pack(state, first, begin);
    add_pack(state, second, begin + stride);
  }
  return block_reduce(state, scratch,
                      [](const RowState<A>& a, const RowState<A>& b) { return merge(a, b); });
}

template <class A>
struct Results {
  A *loss, *correct, *overlap;

  explicit Results(const RowResultPointers& p)
      : loss(static_cast<A*>(p.loss)),
        correct(static_cast<A*>(p.correct)),
        overlap(static_cast<A*>(p.overlap)) {}
};

template <bool kWhole, class T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    statistics_kernel(const T* logits, int64_t rows, int64_t vocab, Accumulate<T>* log_sum_exp,
                      int64_t* argmax) {
  using A = Accumulate<T>;
  __shared__ ReduceScratch<RowState<A>> scratch;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const auto state = row_state<kWhole>(logits + row * vocab, vocab, scratch.as());
    if (threadIdx.x == 0) {
      log_sum_exp[row] = state.log_sum_exp();
      argmax[row] = state.index();
    }
  }
}

// Which students are held against which targets. The blocks of one target follow each other, so
// that its row is read from the cache.
struct Pairs {
  int64_t rows, steps, targets;

  explicit Pairs(const RowsShape& shape)
      : rows(shape.rows), steps(shape.steps), targets(shape.rows / shape.steps) {}
  __device__ int64_t target(int64_t i) const { return i / steps; }
  __device__ int64_t student(int64_t i) const { return i % steps * targets + i / steps; }
};

template <class T>
struct SoftRows {
  using A = Accumulate<T>;
  Pairs pairs;
  int64_t vocab;
  T* student;
  const T* teacher;
  const A* teacher_log_sum_exp;
  const int64_t* teacher_argmax;
  const A *overlap_log_sum_exp, *weights;
  Results<A> results;
};

template <class A>
struct SoftSums {
  A loss = 0, overlap = 0, slope = 0;  // slope: Σ q · that of the token
};

template <class A>
struct SoftRow {
  A student_lse, teacher_lse, overlap_scale, weight;
};

__device__ float log_of_one_plus(float x) { return log1pf(x); }
__device__ double log_of_one_plus(double x) { return log1p(x); }

// log(1 + e^x)
template <class A>
__device__ A softplus(A x) {
  return fmax(x, A(0)) + log_of_one_plus(exponential(-fabs(x)));
}

template <class A>
__device__ A smaller_or_nan(A a, A b) {
  return a < b ? a : b <= a ? b : a + b;
}

// What a token adds to a divergence, and the derivative with respect to its q, but for what is the
// same for all tokens.
template <class A>
struct Token {
  A p, q, loss, slope;
};

// A token without probability counts for nothing: its logarithm may be infinite, and beyond the
// ends of a row both are.
template <Divergence kOf, class T, class A = Accumulate<T>>
__device__ Token<A> token_of(const SoftRow<A>& row, A student, A teacher) {
  const A log_p = teacher - row.teacher_lse, log_q = student - row.student_lse;
  const A p = exponential_of<T>(log_p), q = exponential_of<T>(log_q);
  if constexpr (kOf == Divergence::kCrossEntropy) {
    return {p, q, p == 0 ? A(0) : -p * log_q, A(0)};
  } else if constexpr (kOf == Divergence::kReverseKl) {
    const A slope = q == 0 ? A(0) : log_q - log_p;
    return {p, q, q * slope, slope};
  } else if constexpr (kOf == Divergence::kJensenShannon) {
    constexpr A kLog2 = A(0.693147180559945309);
    const A slope = q == 0 ? A(0) : (kLog2 - softplus(log_p - log_q)) / 2;
    const A of_p = p == 0 ? A(0) : p * (kLog2 - softplus(log_q - log_p)) / 2;
    return {p, q, of_p + q * slope, slope};
  } else {
    const A slope = q < p ? A(-1) : q == p ? A(-0.5) : A(0);
    const bool is_rate = kOf == Divergence::kLogAcceptance;
    return {p, q, is_rate ? smaller_or_nan(p, q) : fabs(p - q) / 2, slope};
  }
}

// The sums of a row; the gradient of cross-entropy, which needs none of them, is written along.
template <Divergence kOf, bool kWhole, class T>
__device__ SoftSums<Accumulate<T>> soft_sums(T* student, const T* teacher, int64_t vocab,
                                             const SoftRow<Accumulate<T>>& row,
                                             bool write_gradient) {
  using P = Packs<kWhole>;
  constexpr auto kOutside = minus_infinity<Accumulate<T>>;
  SoftSums<Accumulate<T>> sums;
  for_each_pack(student, vocab, [&](int64_t begin) {
    Pack<T> s = P::load(student, begin, vocab, kOutside());
    const Pack<T> t = P::load(teacher, begin, vocab, kOutside());
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const auto token = token_of<kOf, T>(row, s.x[i], t.x[i]);
      const auto whole = token.p * row.overlap_scale;
      sums.loss += token.loss;
      sums.overlap += whole < token.q ? whole : token.q;
      if constexpr (kOf != Divergence::kCrossEntropy) sums.slope += token.q * token.slope;
      s.x[i] = row.weight * (token.q - token.p);
    }
    if constexpr (kOf == Divergence::kCrossEntropy) {
      if (write_gradient) P::store(student, begin, vocab, s);
    }
  });
  return sums;
}

// scale · q (slope - mean slope)
template <Divergence kOf, class T>
__device__ void soft_gradient(T* student, const T* teacher, int64_t vocab,
                              const SoftRow<Accumulate<T>>& row, Accumulate<T> scale,
                              Accumulate<T> mean) {
  for_each_pack(student, vocab, [&](int64_t begin) {
    Pack<T> s = load_pack(student, begin, vocab);
    const Pack<T> t = load_pack(teacher, begin, vocab);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const auto token = token_of<kOf, T>(row, s.x[i], t.x[i]);
      s.x[i] = scale * token.q * (token.slope - mean);
    }
    store_pack(student, begin, vocab, s);
  });
}

template <Divergence kOf, bool kWhole, class T>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    soft_rows_kernel(SoftRows<T> in, bool write_gradient) {
  using A = Accumulate<T>;
  __shared__ ReduceScratch<RowState<A>> scratch;
  for (int64_t i = blockIdx.x; i < in.pairs.rows; i += gridDim.x) {
    const int64_t row = in.pairs.student(i), target = in.pairs.target(i);
    T* student = in.student + row * in.vocab;
    const T* teacher = in.teacher + target * in.vocab;
    const auto state = row_state<kWhole>(student, in.vocab, scratch.as());
    const A teacher_lse = in.teacher_log_sum_exp[target];
    const SoftRow<A> values = {state.log_sum_exp(), teacher_lse,
                               exponential(teacher_lse - in.overlap_log_sum_exp[target]),
                               in.weights[row]};
    auto sums = soft_sums<kOf, kWhole>(student, teacher, in.vocab, values, write_gradient);
    sums = block_reduce(
        sums, scratch.template as<SoftSums<A>>(), [](const SoftSums<A>& a, const SoftSums<A>& b) {
          return SoftSums<A>{a.loss + b.loss, a.overlap + b.overlap, a.slope + b.slope};
        });
    A loss = sums.loss, scale = values.weight;
    if constexpr (kOf == Divergence::kLogAcceptance) {
      const A rate = sums.loss < A(FLT_MIN) ? A(FLT_MIN) : sums.loss;
      loss = -logarithm(rate);
      scale /= rate;
    }
    if (threadIdx.x == 0) {
      in.results.loss[row] = loss;
      in.results.correct[row] = state.index() == in.teacher_argmax[target] ? A(1) : A(0);
      in.results.overlap[row] = sums.overlap;
    }
    if constexpr (kOf != Divergence::kCrossEntropy) {
      if (write_gradient) {
        soft_gradient<kOf>(student, teacher, in.vocab, values, scale, sums.slope);
      }
    }
  }
}

// The kernel for one divergence.
template <bool kWhole, class T>
auto soft_kernel(Divergence divergence) {
  switch (divergence) {
    case Divergence::kReverseKl:
      return soft_rows_kernel<Divergence::kReverseKl, kWhole, T>;
    case Divergence::kJensenShannon:
      return soft_rows_kernel<Divergence::kJensenShannon, kWhole, T>;
    case Divergence::kTotalVariation:
      return soft_rows_kernel<Divergence::kTotalVariation, kWhole, T>;
    case Divergence::kLogAcceptance:
      return soft_rows_kernel<Divergence::kLogAcceptance, kWhole, T>;
    case Divergence::kCrossEntropy:
      break;
  }
  return soft_rows_kernel<Divergence::kCrossEntropy, kWhole, T>;
}

template <class T>
struct LabelRows {
  using A = Accumulate<T>;
  Pairs pairs;
  int64_t vocab;
  T* student;
  const int64_t* labels;
  const A* weights;
  Results<A> results;
};

// weight · (softmax - one hot), or zeros for a label outside the vocabulary.
template <class T>
__device__ void label_gradient(T* student, int64_t vocab, int64_t label, Accumulate<T> lse,
                               Accumulate<T> weight) {
  using A = Accumulate<T>;
  const bool counts = label >= 0 && label < vocab;
  for_each_pack(student, vocab, [&](int64_t begin) {
    Pack<T> pack = load_pack(student, begin, vocab);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i) {
      const A target = begin + i == label ? A(1) : A(0);
      pack.x[i] = counts ? weight * (exponential_of<T>(pack.x[i] - lse) - target) : A(0);
    }
    store_pack(student, begin, vocab, pack);
  });
}

template <class T, bool kWriteGradient>
__global__ void __launch_bounds__(kThreads, kBlocks<T>) label_rows_kernel(LabelRows<T> in) {
  using A = Accumulate<T>;
  __shared__ ReduceScratch<RowState<A>> scratch;
  for (int64_t i = blockIdx.x; i < in.pairs.rows; i += gridDim.x) {
    const int64_t row = in.pairs.student(i);
    T* student = in.student + row * in.vocab;
    const int64_t label = in.labels[in.pairs.target(i)];
    const bool counts = label >= 0 && label < in.vocab;
    // Read before row_state's barrier, after which the gradient may overwrite it.
    const A target = counts ? static_cast<A>(student[label]) : A(0);
    const auto state = row_state<false>(student, in.vocab, scratch.as());
    const A lse = state.log_sum_exp();
    if (threadIdx.x == 0) {
      in.results.loss[row] = counts ? lse - target : A(0);
      in.results.correct[row] = state.index() == label ? A(1) : A(0);
      in.results.overlap[row] = counts ? exponential(target - lse) : A(0);
    }
    if constexpr (kWriteGradient) label_gradient(student, in.vocab, label, lse, in.weights[row]);
  }
}

template <class T, class... Parameters, class... Arguments>
cudaError_t launch_rows(void (*kernel)(Parameters...), const RowsShape& shape, cudaStream_t stream,
                        Arguments&&... arguments) {
  if (shape.rows == 0) return cudaSuccess;
  return launch(kernel, dim3(grid_size(shape.rows)), dim3(row_threads<T>(shape.vocab, kThreads)), 0,
                stream, std::forward<Arguments>(arguments)...);
}

}  // namespace

int launch_row_statistics(const RowsShape& shape, const void* logits, void* log_sum_exp,
                          int64_t* argmax, cudaStream_t stream) {
  return with_type(shape.type, [&]<class T>(T) {
    const auto* rows = static_cast<const T*>(logits);
    const bool whole = are_whole_packs<T>({shape.vocab}, rows);
    return launch_rows<T>(whole ? statistics_kernel<true, T> : statistics_kernel<false, T>, shape,
                          stream, rows, shape.rows, shape.vocab,
                          static_cast<Accumulate<T>*>(log_sum_exp), argmax);
  });
}

int launch_divergence_rows(const RowsShape& shape, const DivergenceRowsPointers& p,
                           Divergence divergence, bool write_gradient, cudaStream_t stream) {
  return with_type(shape.type, [&]<class T>(T) {
    using A = Accumulate<T>;
    const SoftRows<T> in = {Pairs(shape),
                            shape.vocab,
                            static_cast<T*>(p.student),
                            static_cast<const T*>(p.teacher),
                            static_cast<const A*>(p.teacher_log_sum_exp),
                            p.teacher_argmax,
                            static_cast<const A*>(p.overlap_log_sum_exp),
                            static_cast<const A*>(p.weights),
                            Results<A>(p.results)};
    const bool whole = are_whole_packs<T>({shape.vocab}, in.student, in.teacher);
    return launch_rows<T>(
        whole ? soft_kernel<true, T>(divergence) : soft_kernel<false, T>(divergence), shape, stream,
        in, write_gradient);
  });
}

int launch_label_rows(const RowsShape& shape, const LabelRowsPointers& p, bool write_gradient,
                      cudaStream_t stream) {
  return with_type(shape.type, [&]<class T>(T) {
    using A = Accumulate<T>;
    const LabelRows<T> in = {Pairs(shape),
                             shape.vocab,
                             static_cast<T*>(p.student),
                             p.labels,
                             static_cast<const A*>(p.weights),
                             Results<A>(p.results)};
    return launch_rows<T>(write_gradient ? label_rows_kernel<T, true> : label_rows_kernel<T, false>,
                          shape, stream, in);
  });
}

}  // namespace outrider::kernels::cuda
