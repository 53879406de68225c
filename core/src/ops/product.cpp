#include "outrider/ops/product.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/cuda/matrix_product.h"
#include "outrider/kernels/scalar_type.h"

namespace outrider::ops {
namespace {

using kernels::cuda::MatrixProduct;
using kernels::cuda::ProductKernel;
using Clock = std::chrono::steady_clock;

constexpr double kFewestOperations = 1e10;  // smaller ones are over before it matters
constexpr int kUsesBefore = 2;              // a product that comes again
constexpr int kRounds = 4;
constexpr size_t kInAllRounds = 3;  // of the kernels that the library proposes
constexpr double kSecondsOfRound = 2e-3;
constexpr double kLeastGain = 0.01;  // less is what the clock's moves look like
constexpr int64_t kAlignment = 16;
constexpr int64_t kSampleRows = 256;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Rows of a matrix as they lie: whether it is one that is seen transposed, and its stride.
struct Layout {
  bool is_transposed;
  int64_t stride;
};

std::optional<Layout> layout_of(const at::Tensor& x) {
  const bool is_transposed = x.stride(1) != 1;
  if (is_transposed && x.stride(0) != 1) return std::nullopt;
  const int64_t stride = x.stride(is_transposed ? 1 : 0);
  const bool is_aligned = reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0 &&
                          stride * x.element_size() % kAlignment == 0;
  if (!is_aligned || stride < x.size(is_transposed ? 0 : 1)) return std::nullopt;
  return Layout{is_transposed, stride};
}

bool is_large(const at::Tensor& a, const at::Tensor& b) {
  return 2.0 * static_cast<double>(a.size(0)) * static_cast<double>(a.size(1)) *
             static_cast<double>(b.size(1)) >=
         kFewestOperations;
}

// Nothing where the kernels here are of no use.
std::optional<MatrixProduct> described(const at::Tensor& out, const at::Tensor& a,
                                       const at::Tensor& b, bool adds) {
  const bool is_half = a.scalar_type() == at::kBFloat16 || a.scalar_type() == at::kHalf;
  if (!is_half || a.scalar_type() != b.scalar_type() || !is_large(a, b)) return std::nullopt;
  if (out.scalar_type() != a.scalar_type() && out.scalar_type() != at::kFloat) return std::nullopt;
  const auto of_out = layout_of(out), of_a = layout_of(a), of_b = layout_of(b);
  if (!of_out || of_out->is_transposed || !of_a || !of_b) return std::nullopt;
  const auto type = kernels::data_type(a.scalar_type(), "product");
  return MatrixProduct{
      .type = type,
      .out_type = out.scalar_type() == at::kFloat ? kernels::DataType::kFloat : type,
      .m = a.size(0),
      .n = b.size(1),
      .k = a.size(1),
      .a_is_transposed = of_a->is_transposed,
      .b_is_transposed = of_b->is_transposed,
      .a_stride = of_a->stride,
      .b_stride = of_b->stride,
      .out_stride = of_out->stride,
      .adds = adds};
}

// Up to the next sixteenth of the power of two below: sizes that one kernel serves alike.
int64_t rounded(int64_t size) {
  const int64_t step =
      std::max<int64_t>(1, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size))) / 16);
  return (size + step - 1) / step * step;
}

MatrixProduct rounded(MatrixProduct product) {
  for (auto* size : {&product.m, &product.n, &product.k, &product.a_stride, &product.b_stride,
                     &product.out_stride}) {
    *size = rounded(*size);
  }
  return product;
}

// Whether LibTorch holds twice as much that nobody uses: the pieces are not all of one size.
bool is_free(size_t bytes, c10::Device device) {
  using c10::CachingAllocator::StatType;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  const auto of_all = static_cast<size_t>(StatType::AGGREGATE);
  const auto free = stats.reserved_bytes[of_all].current - stats.allocated_bytes[of_all].current;
  return free >= 2 * static_cast<int64_t>(bytes);
}

void multiply_plainly(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool adds) {
  if (!adds) {
    at::mm_out(out, a, b);
  } else if (out.scalar_type() == a.scalar_type()) {
    out.addmm_(a, b);
  } else {
    at::addmm_out(out, out, a, b, out.scalar_type());
  }
}

/// One product, by this kernel or that.
class Trial {
 public:
  Trial(const MatrixProduct& product, at::Tensor out, at::Tensor a, at::Tensor b)
      : product_(product),
        out_(std::move(out)),
        a_(std::move(a)),
        b_(std::move(b)),
        stream_(c10::impl::VirtualGuardImpl(a_.device().type()).getStream(a_.device())) {}

  // Null: the library's choice.
  bool run(const ProductKernel* kernel) const {
    if (kernel) return kernels::cuda::multiply_by(*kernel, product_, pointers(), native_stream());
    multiply_plainly(out_, a_, b_, product_.adds);
    return true;
  }

  std::vector<ProductKernel> proposed() const { return kernels::cuda::product_kernels(product_); }
  bool is_recorded() const { return kernels::cuda::is_recorded(native_stream()); }

  // Of one run; infinite where the kernel cannot do it.
  double seconds(const ProductKernel* kernel, int times) const {
    stream_.synchronize();
    const auto begin = Clock::now();
    for (int i = 0; i < times; ++i) {
      if (!run(kernel)) return INFINITY;
    }
    stream_.synchronize();
    return seconds_since(begin) / times;
  }

  // The library's choice may divide k among blocks, which the kernels here never do: then results
  // differ in their last bits, and in all rows.
  bool gives_same_bits(const ProductKernel& kernel) const {
    return at::equal(sample(nullptr), sample(&kernel));
  }

  // Where it may be tried. Summing products need a place of their own, as what `out` holds must not
  // change: nothing where the device's memory would have to grow for that.
  std::optional<Trial> beside() const {
    if (!product_.adds) return *this;
    if (!out_.is_contiguous() || !is_free(out_.nbytes(), out_.device())) return std::nullopt;
    return Trial(product_, at::zeros_like(out_), a_, b_);
  }

 private:
  // The first rows of what a run makes.
  at::Tensor sample(const ProductKernel* kernel) const {
    if (product_.adds) at::Tensor(out_).zero_();
    run(kernel);
    return out_.slice(0, 0, kSampleRows).clone();
  }

  kernels::cuda::ProductPointers pointers() const {
    return {a_.const_data_ptr(), b_.const_data_ptr(), out_.mutable_data_ptr()};
  }
  CUstream_st* native_stream() const { return static_cast<CUstream_st*>(stream_.native_handle()); }

  MatrixProduct product_;
  at::Tensor out_, a_, b_;
  c10::Stream stream_;
};

struct Timed {
  const ProductKernel* kernel;  // null: the library's choice
  double seconds = 0.0;
};

void add_round(std::vector<Timed>& all, const Trial& trial, int times) {
  for (auto& timed : all) timed.seconds += trial.seconds(timed.kernel, times);
}

// The fastest of those proposed; nothing where the library's choice is as fast. All take turns,
// since the device's clock moves, and the slower ones only once.
std::optional<ProductKernel> fastest(const Trial& trial) {
  const auto kernels = trial.proposed();
  std::vector<Timed> all;
  for (const auto& kernel : kernels) all.push_back({&kernel});
  const double once = trial.seconds(nullptr, 1);
  const int times = std::clamp(static_cast<int>(kSecondsOfRound / once), 2, 50);
  add_round(all, trial, times);
  std::ranges::sort(all, {}, &Timed::seconds);
  all.resize(std::min(all.size(), kInAllRounds));
  std::vector<Timed> plain{{nullptr}};
  add_round(plain, trial, times);
  for (int round = 1; round < kRounds; ++round) {
    add_round(all, trial, times);
    add_round(plain, trial, times);
  }
  const auto best = std::ranges::min_element(all, {}, &Timed::seconds);
  const double limit = (1 - kLeastGain) * plain.front().seconds;
  return best != all.end() && best->seconds < limit ? std::optional(*best->kernel) : std::nullopt;
}

/// What is known of products, of the whole process.
class KnownProducts {
 public:
  static KnownProducts& of_process() {
    static auto& known = *new KnownProducts;
    return known;
  }

  void begin() {
    const std::lock_guard lock(mutex_);
    if (scopes_++ == 0 && !began_) began_ = Clock::now();
  }
  void end() {
    const std::lock_guard lock(mutex_);
    --scopes_;
  }

  // Nothing: multiply plainly.
  std::optional<ProductKernel> kernel_for(const MatrixProduct& product, const Trial& trial) {
    const std::lock_guard lock(mutex_);
    if (scopes_ == 0) return std::nullopt;
    auto& known = known_[rounded(product)];
    if (!known.is_timed && ++known.uses > kUsesBefore && has_time() && !trial.is_recorded()) {
      time(known, trial);
    }
    return known.kernel && is_exact(product, *known.kernel, trial) ? known.kernel : std::nullopt;
  }

 private:
  struct Known {
    int uses = 0;
    bool is_timed = false;
    std::optional<ProductKernel> kernel;
  };

  bool has_time() const {
    return spent_ <
           TimedProducts::kOfTheBeginning + TimedProducts::kShareOfTime * seconds_since(*began_);
  }

  void time(Known& known, const Trial& trial) {
    const auto beside = trial.beside();
    if (!beside) return;
    const auto begin = Clock::now();
    known.kernel = fastest(*beside);
    known.is_timed = true;
    spent_ += seconds_since(begin);
  }

  // Of each size by itself, since the library's choice changes with it.
  bool is_exact(const MatrixProduct& product, const ProductKernel& kernel, const Trial& trial) {
    if (const auto found = exact_.find(product); found != exact_.end()) return found->second;
    if (trial.is_recorded()) return false;
    const auto beside = trial.beside();
    return beside && (exact_[product] = beside->gives_same_bits(kernel));
  }

  std::mutex mutex_;
  std::map<MatrixProduct, Known> known_;  // by rounded sizes
  std::map<MatrixProduct, bool> exact_;   // whether the kernel gives the library's bits
  std::optional<Clock::time_point> began_;
  int scopes_ = 0;
  double spent_ = 0.0;
};

void multiply(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool adds) {
  const auto product =
      kernels::cuda::multiply_by && out.is_cuda() ? described(out, a, b, adds) : std::nullopt;
  if (!product) return multiply_plainly(out, a, b, adds);
  const c10::DeviceGuard guard(out.device());
  const Trial trial(*product, out, a, b);
  const auto kernel = KnownProducts::of_process().kernel_for(*product, trial);
  if (!kernel || !trial.run(&*kernel)) multiply_plainly(out, a, b, adds);
}

}  // namespace

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cuda()) return at::mm(a, b);
  auto out = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(out, a, b, false);
  return out;
}

void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  if (sum.is_cuda() || sum.scalar_type() == a.scalar_type()) return multiply(sum, a, b, true);
  sum.add_(at::mm(a, b));
}

TimedProducts::TimedProducts() { KnownProducts::of_process().begin(); }
TimedProducts::~TimedProducts() { KnownProducts::of_process().end(); }

}  // namespace outrider::ops
