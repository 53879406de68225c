#include "tensor_mismatches.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::string sizes_text(at::IntArrayRef sizes) { return fmt::format("[{}]", fmt::join(sizes, ",")); }

}  // namespace

void TensorMismatches::add(const char* what, const std::string& name) {
  problems_.add(fmt::format("{}: {}", what, printable(name)));
}

void TensorMismatches::copy(const at::Tensor& target, const at::Tensor& source,
                            const std::string& name) {
  const bool same_kind = target.is_floating_point() == source.is_floating_point();
  if (target.sizes() != source.sizes() || !same_kind) {
    add("wrong shape or type",
        fmt::format("{} is {} {}, expected {} {}", name, sizes_text(source.sizes()),
                    at::toString(source.scalar_type()), sizes_text(target.sizes()),
                    at::toString(target.scalar_type())));
    return;
  }
  if (taker_ && taker_(name, source)) return;
  const at::NoGradGuard no_grad;
  target.copy_(source);
}

void TensorMismatches::finish(const std::string& origin, const std::string& hint) const {
  problems_.throw_in_lines(ErrorCode::kTensorMismatch, origin + ": tensors do not fit the model",
                           hint, /*limit=*/40);
}

}  // namespace outrider
