#include <fmt/format.h>

#include <memory>
#include <optional>

#include "bench/workload.h"
#include "checkpoint/model_folder.h"
#include "cli/app.h"
#include "machine/disk_room.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"
#include "plan/run_plan.h"
#include "trainer/progress.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;

struct PlanArguments {
  fs::path model, data, eval_data;
  std::string workload, dtype;
  std::optional<std::string> numerics;
  uint64_t device_memory = 0;
  double device_tflops = 800;
  PlanOptions options;
};

/// The model of a converted folder without its values; only what its files say of tensors is read.
std::shared_ptr<CausalLM> structure_of(const PlanArguments& arguments) {
  auto folder =
      ModelFolder::open(arguments.model, OpenFor::kBuilding, arguments.numerics, show_note);
  if (!arguments.dtype.empty()) {
    folder.config.dtype = parse_dtype(arguments.dtype);
    folder.structure = base_structure(folder.config);
  }
  size_t bytes = 0;
  for (const auto& [name, entry] : folder.tensors.tensors()) bytes += entry.view->bytes.size();
  rebuild(*folder.structure, folder.metadata, bytes, arguments.model.string());
  return folder.structure;
}

std::string gib(double bytes) { return fmt::format("{:.2f} GiB", bytes / kGiB); }

void print_planned_step(const Json& step) {
  const auto& memory = step["memory"];
  const auto part = [&](const char* name) { return gib(memory[name].get<double>()); };
  const auto passes = step["passes"].get<int64_t>();
  fmt::print("{} row{} of {} tokens a pass, {} pass{} an update\n", step["rows"].get<int64_t>(),
             step["rows"] == 1 ? "" : "s", step["length"].get<int64_t>(), passes,
             passes == 1 ? "" : "es");
  fmt::print("memory {}, at its fullest in {}:\n", part("total"),
             memory["moment"].get<std::string>());
  Table table({"  for", "memory"});
  for (const auto& [name, key] : {std::pair("the base", "base"),
                                  {"the draft", "draft"},
                                  {"masters and moments", "optimizer"},
                                  {"gradients", "gradients"},
                                  {"the base's hidden states", "hidden_states"},
                                  {"what the draft keeps for its backward pass", "kept"},
                                  {"what comes and goes", "working"},
                                  {"the allocator's slack", "slack"},
                                  {"context and workspaces", "outside"}}) {
    table.add({std::string("  ") + name, part(key)});
  }
  table.print();
  fmt::print("{:.0f} ms an update, {} tokens/s\n", 1000 * step["seconds"].get<double>(),
             format_count(step["tokens_per_second"].get<double>()));
}

std::string duration(double seconds) {
  return seconds < 86400 ? format_duration(seconds) : fmt::format("{:.1f} days", seconds / 86400);
}

std::string bytes(const Json& number) {
  return format_bytes(static_cast<uint64_t>(number.get<double>()));
}

void print_planned_run(const Json& plan) {
  const auto &run = plan["run"], &disk = plan["disk"];
  fmt::print("the run: {} tokens in {} updates, rows {:.0f} % filled, {}\n",
             format_count(run["tokens"].get<double>()), run["updates"].get<int64_t>(),
             100 * run["filled"].get<double>(), duration(run["seconds"].get<double>()));
  fmt::print("disk: {} ({} checkpoints of {}, the final model {})\n", bytes(disk["run"]),
             disk["checkpoints"].get<int64_t>(), bytes(disk["checkpoint"]), bytes(disk["model"]));
  fmt::print("hidden states, if they were stored: {}\n", bytes(disk["hidden_states_if_stored"]));
}

Json plan_of_workload(const PlanArguments& arguments) {
  const auto workload = workload_of(arguments.workload);
  const auto dtype = arguments.dtype.empty() ? at::kBFloat16 : parse_dtype(arguments.dtype);
  const auto model =
      make_workload_model(workload, at::TensorOptions().device(at::kMeta).dtype(dtype));
  auto options = arguments.options;
  options.rows = options.target_rows = workload.rows;
  const auto batch = planned_batch(*model, options, workload.length);
  return {{"step", plan_step(*model, options, batch, workload.length)}};
}

Json plan_of_run(const PlanArguments& arguments) {
  const auto model = structure_of(arguments);
  auto options = arguments.options;
  options.source = arguments.model;
  options.has_held_out_data = !arguments.eval_data.empty();
  return plan_run(*model, TokenShards::open(arguments.data), options);
}

void plan(PlanArguments arguments, const GlobalOptions& global) {
  use_plugins(global);
  const bool is_workload = !arguments.workload.empty();
  if (is_workload == !arguments.model.empty() || is_workload == !arguments.data.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "plan: what is to be planned? Either a folder and its data, or a workload",
                "outrider plan DIR --data SHARDS, or outrider plan --workload NAME");
  }
  arguments.options.device_memory = static_cast<double>(arguments.device_memory);
  arguments.options.device_flops = 1e12 * arguments.device_tflops;
  const auto result = is_workload ? plan_of_workload(arguments) : plan_of_run(arguments);
  if (global.json) return print_json(result);
  print_planned_step(result["step"]);
  if (result.contains("run")) print_planned_run(result);
}

void add_settings(CLI::App& verb, PlanArguments& a) {
  auto& o = a.options;
  auto& s = o.settings;
  verb.add_option("--target-batch", o.target_rows, "Rows of an update, at least")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  verb.add_option("--per-device-train-batch-size", o.rows,
                  "Rows of a pass (default: as many as fit)")
      ->check(CLI::Range(1, 1 << 16));
  verb.add_option("--max-length", s.max_length, "As of outrider train")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  verb.add_flag("--packing", s.packing, "As of outrider train");
  verb.add_option("--num-train-epochs", s.num_train_epochs, "As of outrider train")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb.add_option("--save-total-limit", s.save_total_limit, "As of outrider train")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  const auto add_choice = [&](const char* name, std::string& value, std::vector<std::string> all) {
    verb.add_option(name, value, "As of outrider train")
        ->check(CLI::IsMember(std::move(all)))
        ->capture_default_str();
  };
  add_choice("--save", s.save, {"full", "draft"});
  add_choice("--base-precision", s.base_precision, {"full", "fp8"});
  add_choice("--recompute", s.recompute, {"auto", "nothing", "elementwise", "products"});
  add_choice("--cuda-graphs", s.cuda_graphs, {"auto", "on", "off"});
}

}  // namespace

void add_plan_verb(CLI::App& app, const GlobalOptions& global) {
  auto* verb = add_verb(app, "plan", "Predict memory, time and disk of a training run on a GPU",
                        "outrider plan smol-eagle --data shards --device-memory 80GiB");
  const auto a = std::make_shared<PlanArguments>();
  verb->add_option("model", a->model, "Converted model folder")->type_name("DIR");
  verb->add_option("--data", a->data, "Token shards to train on")->type_name("DIR");
  verb->add_option("--eval-data", a->eval_data, "Held-out token shards: the best model is kept too")
      ->type_name("DIR");
  verb->add_option("--workload", a->workload, "Instead: a step of outrider bench train's")
      ->type_name("NAME");
  verb->add_option("--device-memory", a->device_memory, "Of the GPU, such as 80GiB")
      ->required()
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->type_name("SIZE");
  verb->add_option("--device-tflops", a->device_tflops,
                   "What a large product of matrices reaches on it (an H100 in bfloat16: 800)")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--share-of-limit", a->options.share_of_limit,
                   "Of that, what a training step reaches as a whole")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  verb->add_option("--dtype", a->dtype, "As of outrider train (default: as stored)");
  add_numerics_option(*verb, a->numerics);
  add_settings(*verb, *a);
  verb->callback([a, &global] { plan(*a, global); });
}

}  // namespace outrider::cli
