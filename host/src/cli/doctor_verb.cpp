#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <cstdlib>
#include <memory>
#include <optional>

#include "cli/app.h"
#include "cli/decode_options.h"
#include "cli/verify_report.h"
#include "diagnosis/acceptance_diagnosis.h"
#include "generate/prompt_file.h"
#include "generate/tokenized_prompts.h"
#include "machine/cpu_arithmetic.h"
#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/sdk/stamp.h"
#include "outrider/version.h"
#include "verify/folder_verification.h"

namespace outrider::cli {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// LibTorch's CUDA half is not linked: it is opened, and then asked.
Json device_facts() {
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) {
    return {{"cuda", false}, {"why", "this LibTorch has no CUDA support"}};
  }
  if (!at::hasCUDA()) return {{"cuda", false}, {"why", "no CUDA device or driver was found"}};
  return {{"cuda", true}};
}

Json plugin_facts() {
  Json plugins = Json::array();
  for (const auto& listing : plugin_loader().list()) {
    Json plugin = {{"path", listing.path.string()}, {"problem", listing.problem}};
    if (listing.info) {
      plugin["name"] = listing.info->name;
      plugin["version"] = listing.info->version.to_string();
      if (listing.info->is_built_in) plugin["path"] = listing.info->location();
    }
    plugins.push_back(plugin);
  }
  return plugins;
}

// What will surprise the user later.
Json warnings(const Json& facts) {
  Json warnings = Json::array();
  if (facts["plugins"].empty()) {
    warnings.push_back("no plugin was found: install one with `outrider plugin add FILE`");
  }
  for (const auto& plugin : facts["plugins"]) {
    const auto problem = plugin["problem"].get<std::string>();
    if (!problem.empty()) warnings.push_back(problem);
  }
  return warnings;
}

Json examine() {
  Json facts = {{"outrider", std::string(version())},
                {"sdk_abi", kSdkAbi},
                {"libtorch", TORCH_VERSION},
                {"cpu", at::get_cpu_capability()},
                {"cpu_bfloat16", has_fast_bfloat16() ? "fast" : "slow"},
                {"threads", at::get_num_threads()},
                {"OMP_NUM_THREADS", environment("OMP_NUM_THREADS")},
                {"GOMP_SPINCOUNT", environment("GOMP_SPINCOUNT")},
                {"device", device_facts()},
                {"plugins", plugin_facts()}};
  facts["warnings"] = warnings(facts);
  return facts;
}

void print_facts(const Json& facts) {
  fmt::print("outrider {} (SDK ABI {}), LibTorch {}\n", facts["outrider"].get<std::string>(),
             facts["sdk_abi"].dump(), facts["libtorch"].get<std::string>());
  fmt::print("CPU {} with {} threads\n", facts["cpu"].get<std::string>(), facts["threads"].dump());
  fmt::print("bfloat16 on the CPU: {}\n",
             facts["cpu_bfloat16"] == "fast" ? "fast"
                                             : "slow, so bfloat16 models compute in float32 there");
  const auto& device = facts["device"];
  fmt::print("CUDA: {}\n", device["cuda"].get<bool>() ? "yes" : device["why"].get<std::string>());
  Table table({"PLUGIN", "VERSION", "PATH"});
  for (const auto& plugin : facts["plugins"]) {
    table.add({plugin.value("name", "?"), plugin.value("version", "?"),
               plugin["path"].get<std::string>()});
  }
  table.print();
  for (const auto& warning : facts["warnings"]) {
    fmt::print("warning: {}\n", warning.get<std::string>());
  }
  if (facts["warnings"].empty()) fmt::print("all is well\n");
}

struct DoctorArguments {
  DecodeArguments decode;
  std::filesystem::path model, prompts;
};

// The text of an answer that ends a conversation.
std::optional<std::string> given_answer(const Json& prompt) {
  const auto messages = prompt.value("messages", Json());
  if (!messages.is_array() || messages.empty() || !messages.back().is_object()) return std::nullopt;
  const auto& last = messages.back();
  const auto content = last.value("content", Json());
  if (last.value("role", Json()) != "assistant" || !content.is_string()) return std::nullopt;
  return content.get<std::string>();
}

std::vector<AnsweredPrompt> answered_prompts(const DoctorArguments& arguments) {
  const auto prompts = read_prompt_file(arguments.prompts);
  const auto tokens = tokenized(prompts, arguments.model);
  std::vector<AnsweredPrompt> answered;
  for (size_t i = 0; i < prompts.size(); ++i) {
    AnsweredPrompt one{tokens.tokens[i], {}};
    if (const auto answer = given_answer(prompts[i]); answer && tokens.text) {
      one.answer = tokens.text->encode({{"text", *answer}, {"raw", true}});
    }
    answered.push_back(std::move(one));
  }
  return answered;
}

Json diagnosis_json(const AcceptanceDiagnosis& diagnosis, const verify::Checks& checks) {
  Json findings = Json::array();
  for (const auto& finding : diagnosis.findings) {
    findings.push_back({{"name", finding.name},
                        {"figures", finding.figures},
                        {"meaning", finding.meaning},
                        {"loss", finding.loss ? Json(*finding.loss) : Json()}});
  }
  return {{"acceptance_length", diagnosis.acceptance_length},
          {"findings", findings},
          {"most_likely_cause", diagnosis.most_likely_cause},
          {"verify", verify::to_json(checks)}};
}

void print_diagnosis(const AcceptanceDiagnosis& diagnosis) {
  fmt::print("{:.2f} tokens per pass of the base\n", diagnosis.acceptance_length);
  Table table({"POSSIBLE CAUSE", "LOSS", "WHAT WAS MEASURED"});
  for (const auto& finding : diagnosis.findings) {
    table.add({finding.name, finding.loss ? fmt::format("{:.0f} %", 100 * *finding.loss) : "?",
               finding.meaning});
  }
  table.print();
  fmt::print("most likely: {}\n", diagnosis.most_likely_cause);
}

void diagnose(const DoctorArguments& arguments, const GlobalOptions& global) {
  if (arguments.prompts.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "doctor: a model is examined on prompts",
                "give a JSON Lines file with --prompts");
  }
  const auto& decode = arguments.decode;
  DiagnosisOptions options{.folder = arguments.model,
                           .prompts = answered_prompts(arguments),
                           .decode = decode.decode,
                           .batch_size = decode.batch_size};
  const DraftPlan plan(decode.draft);
  options.decode.draft = plan.request();
  options.decode.stop_tokens = stop_tokens(arguments.model);
  std::shared_ptr<CausalLM> model;
  const auto checks = verify::verify_folder(
      {.folder = arguments.model,
       .load = [&] { return model = load_to_verify(arguments.model, decode.load, decode.model); }});
  if (!model) {  // what verifying found is why it cannot be loaded
    global.json ? print_json({{"verify", verify::to_json(checks)}}) : print_checks(checks);
    return require_same(checks);
  }
  const auto diagnosis = diagnose_acceptance(*model, options, verify::causes_in(checks));
  global.json ? print_json(diagnosis_json(diagnosis, checks)) : print_diagnosis(diagnosis);
}

}  // namespace

void add_doctor_verb(CLI::App& app, const GlobalOptions& global) {
  auto arguments = std::make_shared<DoctorArguments>();
  auto* verb =
      add_verb(app, "doctor",
               "Show what is installed and what is wrong with it, or why a model's draft is "
               "rarely accepted",
               "outrider doctor run/final --prompts prompts.jsonl");
  verb->add_option("DIR", arguments->model,
                   "Converted model folder: examine its draft instead of the installation");
  verb->add_option("--prompts", arguments->prompts,
                   "With DIR: JSON Lines file of prompts; `messages` that end with an answer also "
                   "tell how the draft does on given text");
  add_decode_options(*verb, arguments->decode);
  verb->callback([arguments, &global] {
    use_plugins(global);
    if (!arguments->model.empty()) return diagnose(*arguments, global);
    const auto facts = examine();
    global.json ? print_json(facts) : print_facts(facts);
  });
}

}  // namespace outrider::cli
