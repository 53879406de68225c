#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <string>
#include <type_traits>
#include <utility>

#include "outrider/ops/find_operator.h"

namespace outrider {

template <size_t kTensors>
using Gradients = std::array<at::Tensor, kTensors>;
/// Which gradients someone asks for; the others may be left undefined.
template <size_t kTensors>
using Wanted = std::array<bool, kTensors>;

/// Whether an operator (see fused_operator.h) has kernels of its own for CUDA.
template <class Op>
inline constexpr bool kHasCuda = requires {
  &Op::Cuda::forward;
};

template <class Op, class Signature>
struct FusedGradient;

/// A fused operator's node in the graph of autograd: keeps what backward() reads, and calls it.
template <class Op, class... Arguments>
struct FusedGradient<Op, at::Tensor(Arguments...)>
    : torch::autograd::Function<FusedGradient<Op, at::Tensor(Arguments...)>> {
  using Context = torch::autograd::AutogradContext;
  using Tensors = torch::autograd::variable_list;

  static at::Tensor run(Arguments... arguments) { return FusedGradient::apply(arguments...); }

  static at::Tensor forward(Context* context, Arguments... arguments) {
    Tensors tensors;
    size_t place = 0;
    const auto keep = [&](const auto& argument) {
      if constexpr (kIsTensor<decltype(argument)>) {
        tensors.push_back(is_kept(tensors.size()) ? argument
                                                  : argument.detach().to(at::Device(at::kMeta)));
      } else {
        context->saved_data[std::to_string(place)] = argument;
      }
      ++place;
    };
    (keep(arguments), ...);
    context->save_for_backward(std::move(tensors));
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    static const auto op = find_operator<at::Tensor(Arguments...)>(Op::kName);
    return op.call(arguments...);
  }

  static Tensors backward(Context* context, Tensors grads) {
    return gradients(context, grads[0], std::index_sequence_for<Arguments...>{});
  }

 private:
  template <class T>
  static constexpr bool kIsTensor = std::is_same_v<std::remove_cvref_t<T>, at::Tensor>;

  // How many of the first arguments are tensors.
  static constexpr size_t tensors_before(size_t argument) {
    constexpr bool kAre[] = {kIsTensor<Arguments>...};
    size_t count = 0;
    for (size_t i = 0; i < argument; ++i) count += kAre[i];
    return count;
  }

  static constexpr bool is_kept(size_t tensor) {
    if constexpr (requires { Op::kKept; }) return Op::kKept[tensor];
    return true;
  }

  // The argument as forward() got it.
  template <class T, size_t kPlace>
  static std::remove_cvref_t<T> kept(Context* context, const Tensors& tensors) {
    if constexpr (kIsTensor<T>) {
      return tensors[tensors_before(kPlace)];
    } else {
      return context->saved_data.at(std::to_string(kPlace)).template to<std::remove_cvref_t<T>>();
    }
  }

  // What is no tensor has no gradient.
  template <size_t... kPlaces>
  static Tensors gradients(Context* context, const at::Tensor& grad,
                           std::index_sequence<kPlaces...>) {
    constexpr size_t kTensors = tensors_before(sizeof...(Arguments));
    const auto tensors = context->get_saved_variables();
    Wanted<kTensors> wanted;
    for (size_t i = 0; i < kTensors; ++i) wanted[i] = context->needs_input_grad(i);
    const Gradients<kTensors> found =
        backward_of(grad)(grad, kept<Arguments, kPlaces>(context, tensors)..., wanted);
    const auto gradient = [&](bool is_tensor, size_t tensor) {
      return is_tensor && wanted[tensor] ? found[tensor] : at::Tensor();
    };
    return {gradient(kIsTensor<Arguments>, tensors_before(kPlaces))...};
  }

  static auto backward_of(const at::Tensor& grad) {
    auto* function = &Op::Composed::backward;
    if constexpr (kHasCuda<Op>) {
      if (grad.is_cuda()) function = &Op::Cuda::backward;
    }
    return function;
  }
};

}  // namespace outrider
