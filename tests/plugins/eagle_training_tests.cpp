#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "eagle_mode.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "tensor_checks.h"
#include "trainer/optimizer.h"

namespace outrider::testing {
namespace {

const std::filesystem::path kCase =
    std::filesystem::path(OUTRIDER_TEST_FIXTURES) / "training" / "eagle3_train_steps";

std::shared_ptr<CausalLM> converted_model(const Json& config) {
  const auto model = from_pretrained(kCase / "base");
  auto base = model->base_info();
  base.reference_numerics = "0.47";
  model->attach(eagle::EagleMode().convert(base, config), {.mode = "eagle", .plugin = {}});
  load_weights(*model, kCase / "converted.safetensors");
  return model;
}

ForwardInput inputs() {
  const auto tensors = read_tensors(kCase / "inputs.safetensors");
  ForwardInput input;
  input.batch.input_ids = tensors.at("input_ids");
  input.batch.attention_mask = tensors.at("attention_mask");
  input.batch.labels = tensors.at("labels");
  return input;
}

std::vector<AdamW::Parameter> trained_parameters(const CausalLM& model) {
  std::vector<AdamW::Parameter> parameters;
  for (const auto& item : model.named_parameters()) {
    if (item.value().requires_grad()) parameters.push_back({item.key(), item.value()});
  }
  return parameters;
}

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

TEST_CASE("five steps of AdamW leave ModelOpt's losses, gradient norms and parameters") {
  const auto description = read_json_file(kCase / "case.json");
  const auto& run = description.at("train");
  const auto expected = read_tensors(kCase / "expected.safetensors");
  const auto model = converted_model(description.at("config_passed"));
  model->speculative_state().front().draft->train();
  const auto parameters = trained_parameters(*model);
  AdamW optimizer(parameters, {.beta1 = run.at("betas")[0],
                               .beta2 = run.at("betas")[1],
                               .epsilon = run.at("eps"),
                               .weight_decay = run.at("weight_decay"),
                               .max_grad_norm = run.at("max_grad_norm"),
                               .decays_vectors = true});
  REQUIRE(run.at("steps") == 5);
  for (int64_t step = 0; step < 5; ++step) {
    CAPTURE(step);
    const auto loss = model->forward(inputs()).loss;
    loss.backward();
    optimizer.collect_gradients();
    const auto norm = optimizer.step(run.at("lr"));
    const auto wanted = expected.at("train.loss")[step];
    CHECK_CLOSE(loss, wanted, 1e-5 * (1 + largest(wanted)));
    const auto wanted_norm = expected.at("train.grad_norm")[step];
    CHECK_CLOSE(norm, wanted_norm, 1e-4 * largest(wanted_norm));
  }
  CHECK(parameters.size() == expected.size() - 2);
  for (const auto& [name, tensor, is_rounded] : parameters) {
    CAPTURE(name);
    const auto& wanted = expected.at("param_after." + name);
    CHECK_CLOSE(tensor, wanted, 1e-4 * largest(wanted));
  }
}

}  // namespace
}  // namespace outrider::testing
