// Times one training step of a converted model: base pass, draft loss, backward, clipping, AdamW.
// Usage: train_step DIR BATCH.safetensors STEPS   Prints one JSON object.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_loader.h"
#include "trainer/optimizer.h"

namespace outrider {
namespace {

double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Json measure(const std::string& folder, const std::string& batch, int steps) {
  const auto policy = PluginPolicy::standard();
  plugin_loader(&policy);
  const auto model = from_pretrained(folder);
  const auto tensors = read_tensors(batch);
  ForwardInput input;
  input.batch.input_ids = tensors.at("input_ids");
  input.batch.attention_mask = at::ones_like(input.batch.input_ids);
  std::vector<AdamW::Parameter> parameters;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) parameters.push_back({item.key(), item.value()});
  }
  AdamW optimizer(parameters, {.max_grad_norm = 1.0});
  for (const auto& attached : model->speculative_state()) attached.draft->train();
  std::vector<double> seconds;
  Json losses = Json::array();
  for (int i = 0; i < steps + 1; ++i) {  // the first one warms up
    const auto begin = std::chrono::steady_clock::now();
    const auto output = model->forward(input);
    output.loss.backward();
    optimizer.collect_gradients();
    optimizer.step(1e-4);
    losses.push_back(output.loss.item<double>());
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (i > 0) seconds.push_back(taken.count());
  }
  return {{"median_seconds", median(seconds)},
          {"tokens_per_second", input.batch.input_ids.numel() / median(seconds)},
          {"peak_megabytes", peak_megabytes()},
          {"threads", at::get_num_threads()},
          {"losses", losses}};
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: train_step DIR BATCH.safetensors STEPS\n");
    return 2;
  }
  try {
    fmt::print("{}\n", outrider::measure(argv[1], argv[2], std::stoi(argv[3])).dump());
    return 0;
  } catch (const outrider::Error& error) {
    fmt::print(stderr, "error: {}\nhint: {}\n", error.what(), error.hint());
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
  }
  return 1;
}
