#include "outrider/ops/sequence_share.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "outrider/error.h"

namespace outrider {

SequenceShare::~SequenceShare() = default;

namespace ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Way { kToHeads, kToRows };

/// How an autograd node keeps what is no tensor.
struct HeldShare : torch::CustomClassHolder {
  explicit HeldShare(std::shared_ptr<SequenceShare> held) : share(std::move(held)) {}
  std::shared_ptr<SequenceShare> share;
};

at::Tensor to_heads(const at::Tensor& x, SequenceShare& share) {
  const int64_t count = share.count();
  require_shared_heads(x.size(1), count);
  const auto parts = x.unflatten(1, {count, -1}).movedim(1, 0).contiguous();
  return share.exchange(parts).movedim(0, 2).flatten(2, 3);
}

at::Tensor to_rows(const at::Tensor& x, SequenceShare& share) {
  const int64_t count = share.count();
  const auto parts = x.unflatten(2, {count, -1}).movedim(2, 0).contiguous();
  return share.exchange(parts).movedim(0, 1).flatten(1, 2);
}

at::Tensor moved(const at::Tensor& x, SequenceShare& share, Way way) {
  return way == Way::kToHeads ? to_heads(x, share) : to_rows(x, share);
}

struct Exchange : torch::autograd::Function<Exchange> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::shared_ptr<SequenceShare>& share, Way way) {
    ctx->saved_data["share"] = c10::IValue::make_capsule(c10::make_intrusive<HeldShare>(share));
    ctx->saved_data["to_heads"] = way == Way::kToHeads;
    return moved(x, *share, way);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto held =
        c10::static_intrusive_pointer_cast<HeldShare>(ctx->saved_data["share"].toCapsule());
    const bool came_to_heads = ctx->saved_data["to_heads"].toBool();
    return {moved(grads[0], *held->share, came_to_heads ? Way::kToRows : Way::kToHeads), {}, {}};
  }
};

}  // namespace

void require_shared_heads(int64_t heads, int64_t processes) {
  if (heads % processes == 0) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{} attention heads cannot be shared by {} processes", heads, processes),
              "let so many processes share each sequence that their number divides the heads");
}

at::Tensor rows_to_heads(const at::Tensor& x, const std::shared_ptr<SequenceShare>& share) {
  return Exchange::apply(x, share, Way::kToHeads);
}

at::Tensor heads_to_rows(const at::Tensor& x, const std::shared_ptr<SequenceShare>& share) {
  return Exchange::apply(x, share, Way::kToRows);
}

}  // namespace ops
}  // namespace outrider
