#include <fmt/format.h>

#include <memory>
#include <string>

#include "bench/decode_bench.h"
#include "bench/train_bench.h"
#include "cli/app.h"
#include "cli/model_options.h"
#include "cli/schema_options.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"
#include "trainer/train_options.h"

namespace outrider::cli {
namespace {

struct BenchArguments {
  std::string workload;
  ModelOptions model;
  TrainBenchOptions options;
  std::string base_precision = "full", recompute = "auto", cuda_graphs = "auto";
};

void print_bench(const Json& result) {
  const auto& rate = result["tokens_per_second"];
  const auto& share = result["share_of_time"];
  fmt::print("{} on {} in {}: {:.0f} tokens/s (from {:.0f} to {:.0f}), {:.1f} ms a step\n",
             result["workload"].get<std::string>(), result["device"].get<std::string>(),
             result["dtype"].get<std::string>(), rate["median"].get<double>(),
             rate["least"].get<double>(), rate["most"].get<double>(),
             1000 * result["step_seconds"].get<double>());
  fmt::print("base {:.0f} %, draft {:.0f} %, optimizer {:.0f} %\n",
             100 * share["base"].get<double>(), 100 * share["draft"].get<double>(),
             100 * share["optimizer"].get<double>());
  if (result.contains("device_memory_gib")) {
    fmt::print("memory of the device in use: {:.1f} GiB\n",
               result["device_memory_gib"].get<double>());
  }
  fmt::print("{:.0f} % of the limit, {:.0f} tokens/s at {:.1f} TFLOP/s\n",
             100 * result["share_of_limit"].get<double>(),
             result["limit_tokens_per_second"].get<double>(),
             result["product_tflops"].get<double>());
}

void run_train_bench(BenchArguments& a, const GlobalOptions& global) {
  use_plugins(global);
  const auto load = with_options({}, a.model);
  const auto workload = workload_of(a.workload);
  auto& options = a.options;
  options.device = load.device;
  options.dtype = load.dtype.value_or(load.device.is_cpu() ? at::kFloat : at::kBFloat16);
  options.settings.base_precision = a.base_precision;
  options.settings.recompute = a.recompute;
  options.settings.cuda_graphs = a.cuda_graphs;
  options.on_note = note;
  const auto result = bench_training(workload, options);
  global.json ? print_json(result) : print_bench(result);
}

struct DecodeBenchArguments {
  std::string workload;
  ModelOptions model;
  DecodeBenchOptions options;
};

void print_decode_bench(const Json& result) {
  const auto& rate = result["tokens_per_second"];
  fmt::print("{} on {} in {}: {:.1f} tokens/s (from {:.1f} to {:.1f}), {:.3f} ms a step\n",
             result["workload"].get<std::string>(), result["device"].get<std::string>(),
             result["dtype"].get<std::string>(), rate["median"].get<double>(),
             rate["least"].get<double>(), rate["most"].get<double>(),
             1000 * result["step_seconds"].get<double>());
  fmt::print("{:.0f} % of the limit, {:.0f} MB a step at {:.0f} GB/s\n",
             100 * result["share_of_limit"].get<double>(),
             result["bytes_per_step"].get<double>() / 1e6,
             result["copy_bytes_per_second"].get<double>() / 1e9);
  Table table({"draft shape", "tokens", "drafting", "verifying", "pays from tokens/pass"});
  for (const auto& round : result["rounds"]) {
    table.add({round["draft_shape"].get<std::string>(), round["num_draft_tokens"].dump(),
               fmt::format("{:.3f} ms", 1000 * round["draft_seconds"].get<double>()),
               fmt::format("{:.3f} ms", 1000 * round["base_seconds"].get<double>()),
               fmt::format("{:.2f}", round["acceptance_length_that_pays"].get<double>())});
  }
  table.print();
}

void run_decode_bench(DecodeBenchArguments& a, const GlobalOptions& global) {
  use_plugins(global);
  const auto load = with_options({}, a.model);
  a.options.device = load.device;
  a.options.dtype = load.dtype.value_or(load.device.is_cpu() ? at::kFloat : at::kBFloat16);
  const auto result = bench_decoding(decode_workload_of(a.workload), a.options);
  global.json ? print_json(result) : print_decode_bench(result);
}

void add_decode_bench(CLI::App& bench, const GlobalOptions& global) {
  auto* verb = add_verb(bench, "decode", "Decoding with random weights, made on the device",
                        "outrider bench decode --workload 1b-128x1 --device cuda --json");
  const auto a = std::make_shared<DecodeBenchArguments>();
  verb->add_option(
          "--workload", a->workload,
          "BASE-LENGTHxROWS: prompts of LENGTH tokens, ROWS decoded together; BASE one of " +
              join(workload_bases(), ", "))
      ->required()
      ->type_name("NAME");
  verb->add_option("--max-new-tokens", a->options.new_tokens, "Of each sequence")
      ->check(CLI::Range(int64_t{2}, int64_t{100000}))
      ->capture_default_str();
  verb->add_option("--repeats", a->options.repeats, "How often all is decoded, after a first time")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  add_model_options(*verb, a->model);
  verb->callback([a, &global] { run_decode_bench(*a, global); });
}

}  // namespace

void add_bench_verb(CLI::App& app, const GlobalOptions& global) {
  auto* bench = add_verb(app, "bench", "Measure how fast this machine is",
                         "outrider bench train --workload 1b-k3-2048x8 --device cuda");
  bench->require_subcommand(1);
  add_decode_bench(*bench, global);
  auto* verb = add_verb(*bench, "train", "Steps of training on random weights, made on the device",
                        "outrider bench train --workload 8b-k3-2048x8 --device cuda --json");
  const auto a = std::make_shared<BenchArguments>();
  verb->add_option("--workload", a->workload,
                   "BASE-kSTEPS-LENGTHxROWS, BASE one of " + join(workload_bases(), ", "))
      ->required()
      ->type_name("NAME");
  verb->add_option("--steps", a->options.steps, "Steps that are timed")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}))
      ->capture_default_str();
  verb->add_option("--warmup-steps", a->options.warmup_steps, "Steps before them")
      ->check(CLI::Range(int64_t{0}, int64_t{10000}))
      ->capture_default_str();
  add_model_options(*verb, a->model);
  const auto add_choice = [&](const char* name, std::string& value, std::vector<std::string> all) {
    verb->add_option(name, value, "As of outrider train")
        ->check(CLI::IsMember(std::move(all)))
        ->capture_default_str();
  };
  add_choice("--base-precision", a->base_precision, {"full", "fp8"});
  add_choice("--recompute", a->recompute, {"auto", "nothing", "elementwise", "products"});
  add_choice("--cuda-graphs", a->cuda_graphs, {"auto", "on", "off"});
  verb->callback([a, &global] { run_train_bench(*a, global); });
}

}  // namespace outrider::cli
