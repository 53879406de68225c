#pragma once

#include <functional>

#include "check/check.h"
#include "check/process_state.h"
#include "outrider/checkpoint/tensor_io.h"
#include "trainer/optimizer.h"

namespace outrider::check {

/// Names on one line, the first few of many.
std::string listed(std::vector<std::string> names);

/// Throws Failure where the process is no longer as it was: "WHEN changes the locale".
void require_same_process(const ProcessState& before, const std::string& when);
/// Of what a pass reports, the numbers that are not finite: "total is nan".
std::vector<std::string> not_finite(const ForwardOutput& output);

/// Converts `model` by the subject's mode.
void convert(const ModeSubject& subject, CausalLM& model, uint64_t seed = 0);
/// A new base, converted.
std::shared_ptr<CausalLM> converted(const ModeSubject& subject, at::ScalarType dtype = at::kFloat,
                                    at::Device device = at::kCPU);

/// Copies of every tensor of a model, by name.
TensorMap copied_tensors(const CausalLM& model);
/// Whether it belongs to the draft that a check attached.
bool is_draft_tensor(const CausalLM& model, const std::string& name);
/// The largest |a - b| over the largest |b|; infinite where shapes differ or a value is not finite.
double relative_difference(const at::Tensor& a, const at::Tensor& b);
/// Throws Failure with every tensor whose bits differ.
void require_equal(const TensorMap& actual, const TensorMap& expected, const std::string& when);

/// A batch of two sequences of 24 tokens, all trained on, on the model's device.
ForwardInput some_batch(const CausalLM& model);
/// A pass of a loss that may draw random numbers: always the same.
ForwardOutput seeded_forward(CausalLM& model, const ForwardInput& input);
/// What a training run of the model updates.
std::vector<AdamW::Parameter> trained_parameters(const CausalLM& model);
/// So many steps of AdamW on one batch.
void learn(CausalLM& model, const ForwardInput& batch, int steps,
           const std::function<void(int step, const ForwardOutput& output)>& on_step = {});
/// Every number that a forward pass reports: "total", then each step's loss and accuracy.
std::vector<std::pair<std::string, double>> reported(const ForwardOutput& output);
/// Throws Failure where two passes report numbers further apart than `tolerance`, relative to
/// max(1, |expected|).
void require_close(const ForwardOutput& actual, const ForwardOutput& expected, double tolerance,
                   const std::string& when);

}  // namespace outrider::check
