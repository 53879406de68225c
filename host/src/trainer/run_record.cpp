#include "trainer/run_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <string>
#include <thread>

#include "distributed/process_group.h"
#include "outrider/host/mode_registry.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/host/sha256.h"
#include "outrider/text.h"
#include "outrider/version.h"
#include "trainer/run_setup.h"
#include "trainer/train_options.h"

namespace outrider {
namespace {

std::string now_utc() {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now));
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) {
      return printable(line.substr(colon + 2));
    }
  }
  return "unknown";
}

Json describe_model(const CausalLM& model, const TrainOptions& options) {
  const auto& config = model.config();
  Json modes = Json::array();
  for (const auto& attached : model.speculative_state()) {
    const auto& plugin = mode_registry().get(attached.state.mode).plugin;
    modes.push_back({{"mode", attached.state.mode},
                     {"plugin",
                      {{"name", plugin.name},
                       {"version", plugin.version.to_string()},
                       {"sha256", plugin.sha256}}},
                     {"config", attached.state.config},
                     {"metadata", attached.state.metadata}});
  }
  return {{"folder", options.source.string()},
          {"architecture", config.architecture},
          {"config_sha256", sha256_of(config.raw.dump())},
          {"modes", std::move(modes)}};
}

Json describe_data(const std::filesystem::path& folder, const TokenShards& data) {
  Json shards = Json::array();
  for (const auto& shard : data.description().at("shards")) {
    shards.push_back({{"file", shard.at("file")},
                      {"sha256", shard.contains("sha256") ? shard["sha256"] : Json()}});
  }
  return {{"folder", folder.string()},
          {"conversations", data.size()},
          {"tokens", data.token_count()},
          {"trained_tokens", data.trained_token_count()},
          {"shards_json_sha256", data_sha256(folder)},
          {"shards", std::move(shards)}};
}

Json describe_prompts(const TrainOptions& options) {
  if (options.eval_prompts.empty()) return nullptr;
  return {{"file", options.eval_prompts.string()},
          {"sha256", sha256_of_file(options.eval_prompts)}};
}

}  // namespace

std::string data_sha256(const std::filesystem::path& shards) {
  return sha256_of_file(shards / "shards.json");
}

Json describe_run(const TrainOptions& options, Json fixed_options, const CausalLM& model,
                  const TrainingData& data, const std::optional<TrainingData>& eval_data) {
  return {{"written_by", fmt::format("outrider {}", version())},
          {"fixed_options", std::move(fixed_options)},
          {"options", option_values(options)},
          {"model", describe_model(model, options)},
          {"data", describe_data(options.data, data.tokens())},
          {"eval_data", eval_data ? describe_data(options.eval_data, eval_data->tokens()) : Json()},
          {"eval_prompts", describe_prompts(options)},
          {"starts", Json::array()},
          {"summary", nullptr}};
}

Json describe_start(const TrainOptions& options, int64_t step, const CausalLM& model) {
  Json start = {{"time", now_utc()},
                {"step", step},
                {"command", options.command_line},
                {"cpu", cpu_name()},
                {"cpu_threads_of_machine", std::thread::hardware_concurrency()},
                {"environment", environment(model)}};
  if (options.processes) start["processes"] = options.processes->size();
  if (options.sequence_parallel > 1) start["sequence_parallel"] = options.sequence_parallel;
  return start;
}

}  // namespace outrider
