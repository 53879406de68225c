#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <string>
#include <utility>
#include <vector>

#include "outrider/ops/fused_gradient.h"
#include "outrider/ops/operator_library.h"

/// An operator with a gradient from what is its own: its formula in ATen, its kernels, its checks.
///
///     struct ScaledSilu {
///       static constexpr char kName[] = "outrider_my_algo::scaled_silu";
///       static constexpr char kArguments[] = "(Tensor x, float scale) -> Tensor";
///       static void check(const at::Tensor& x, double scale);  // throws; see input_checks.h
///       struct Composed {  // in ATen: the CPU's, that of shapes alone, and the kernels' yardstick
///         static at::Tensor forward(const at::Tensor& x, double scale);
///         static Gradients<1> backward(const at::Tensor& grad, const at::Tensor& x, double scale,
///                                      Wanted<1> wanted);
///       };
///       struct Cuda { … the same, and static bool is_built(); … };           // may be left out
///       static constexpr std::array kKept = {true};                          // may be left out
///     };
///
/// One tensor comes back; backward() gets its gradient, then forward's arguments, and says the
/// gradients of the tensors among them in their order. kKept says which of those tensors backward()
/// reads: of the others it gets shape and type alone (on the meta device), so that nothing is held
/// for it. Without `Cuda` the composed form serves every device; with it, a build without kernels
/// refuses tensors on such a device.
namespace outrider {

template <class Op, class Signature = std::remove_pointer_t<decltype(&Op::Composed::forward)>>
class FusedOperator;

template <class Op, class... Arguments>
class FusedOperator<Op, at::Tensor(Arguments...)> {
 public:
  using Signature = at::Tensor(Arguments...);

  static at::Tensor call(Arguments... arguments) { return handle().call(arguments...); }

  /// Call once, in the plugin's entry function. `spec` says how to check it; its name is filled in.
  static void add(OperatorSpec spec) { add_operator_spec(define(std::move(spec))); }

  /// The same, for a caller that keeps the specification itself.
  static OperatorSpec define(OperatorSpec spec) {
    const std::string name = Op::kName;
    const auto colons = name.find("::");
    const auto library = name.substr(0, colons), own = name.substr(colons + 2);
    extend_operator_namespace(library).def((own + Op::kArguments).c_str());
    for (const auto& [key, function] : implementations()) {
      implement_operators(library, key).impl(own.c_str(), function);
    }
    if constexpr (kHasCuda<Op>) {
      auto& device = implement_operators(library, c10::DispatchKey::CUDA);
      if (Op::Cuda::is_built()) {
        device.impl(own.c_str(), checked<typename Op::Cuda>);
      } else {
        device.impl(own.c_str(), missing_kernel());
      }
    }
    spec.name = name;
    return spec;
  }

 private:
  using Function = at::Tensor (*)(Arguments...);

  static std::vector<std::pair<c10::DispatchKey, Function>> implementations() {
    using c10::DispatchKey;
    const Function composed = checked<typename Op::Composed>,
                   differentiable = FusedGradient<Op, Signature>::run;
    if constexpr (!kHasCuda<Op>) {
      return {{DispatchKey::CompositeExplicitAutograd, composed},
              {DispatchKey::Autograd, differentiable}};
    }
    return {{DispatchKey::CPU, composed},
            {DispatchKey::Meta, composed},
            {DispatchKey::Autograd, differentiable}};
  }

  static const auto& handle() {
    static const auto op = find_operator<Signature>(Op::kName);
    return op;
  }

  template <class Backend>
  static at::Tensor checked(Arguments... arguments) {
    Op::check(arguments...);
    return Backend::forward(arguments...);
  }
};

}  // namespace outrider
