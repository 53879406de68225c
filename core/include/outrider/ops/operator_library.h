#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <functional>
#include <string>
#include <vector>

#include "outrider/api.h"

namespace outrider {

/// One set of inputs to try an operator with.
using OperatorInputs = std::vector<c10::IValue>;

/// An operator that a plugin or core registered: what is needed to check it without knowing it.
struct OperatorSpec {
  std::string name;  // qualified: "outrider_eagle::double_norm_concat"
  /// Inputs of several shapes for a dtype, on the CPU; the checker moves them.
  std::function<std::vector<OperatorInputs>(at::ScalarType)> sample_inputs;
  std::vector<size_t> constants = {};     // places of inputs that never get a gradient
  double rtol = 1e-4, atol = 1e-5;        // CUDA against CPU in float32
  double low_precision_tolerance = 2e-2;  // the same in bfloat16, both
};

/// A dispatcher namespace for registration inside a plugin's entry function. Libraries live as long
/// as the process: autograd graphs and the dispatcher keep pointers into them.
/// Throws c10::Error if the namespace is taken. Use a name that contains the plugin's.
OUTRIDER_API torch::Library& define_operator_namespace(const std::string& name);

/// A library for implementations of one backend in a namespace that exists.
OUTRIDER_API torch::Library& implement_operators(const std::string& name, c10::DispatchKey key);

/// A library for further definitions in a namespace, which need not exist.
OUTRIDER_API torch::Library& extend_operator_namespace(const std::string& name);

/// What serves a device whose kernels a build has not: throws kDeviceUnavailable with the
/// operator's name.
OUTRIDER_API torch::CppFunction missing_kernel();

OUTRIDER_API void add_operator_spec(OperatorSpec spec);
/// Core's own, then those of plugins in the order in which they came.
OUTRIDER_API const std::vector<OperatorSpec>& operator_specs();
/// Whether core itself brings the operator.
OUTRIDER_API bool is_core_operator(const OperatorSpec& spec);

}  // namespace outrider
