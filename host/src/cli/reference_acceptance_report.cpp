#include "cli/reference_acceptance_report.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "generate/reference_acceptance.h"
#include "generate/tokenized_prompts.h"

namespace outrider::cli {
namespace {

constexpr const char* kAll = "ALL";

struct Means {
  double fixed = 0.0, online = 0.0;
  int64_t count = 0;

  void add(double of_fixed, double of_online) {
    fixed += of_fixed;
    online += of_online;
    ++count;
  }
  Json to_json() const {
    const auto prompts = static_cast<double>(count);
    return {
        {"prompts", count}, {"validate", fixed / prompts}, {"validate_online", online / prompts}};
  }
};

Json of_folder(const std::filesystem::path& folder, const std::vector<Json>& prompts,
               const DecodeArguments& arguments, int64_t steps) {
  const auto model = load_to_decode(folder, arguments);
  const auto tokens = prompt_tokens(prompts, folder);
  const auto stops = stop_tokens(folder);
  const auto length = arguments.decode.max_new_tokens;
  std::map<std::string, Means> means;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto truth = ground_truth(*model, tokens[i], length, stops);
    const auto fixed = validate(*model, tokens[i], truth, steps).rate;
    const auto online = validate_online(*model, tokens[i], length, steps).rate;
    means[kAll].add(fixed, online);
    const auto category = prompts[i].find("category");
    if (category != prompts[i].end() && category->is_string()) {
      means[category->get<std::string>()].add(fixed, online);
    }
  }
  Json result{{"model", folder.string()}, {"categories", Json::object()}};
  for (const auto& [name, mean] : means) {
    if (name == kAll) {
      result.update(mean.to_json());
    } else {
      result["categories"][name] = mean.to_json();
    }
  }
  return result;
}

}  // namespace

Json reference_acceptance(const std::vector<std::filesystem::path>& folders,
                          const std::vector<Json>& prompts, const DecodeArguments& arguments,
                          int64_t steps) {
  Json models = Json::array();
  for (const auto& folder : folders) models.push_back(of_folder(folder, prompts, arguments, steps));
  return {{"steps", steps}, {"osl", arguments.decode.max_new_tokens}, {"models", models}};
}

void print_reference_acceptance(const Json& result) {
  fmt::print("ModelOpt's acceptance, {} drafted tokens, {} new ones a prompt\n",
             result["steps"].get<int64_t>(), result["osl"].get<int64_t>());
  Table table({"model", "category", "prompts", "validate", "validate_online"});
  const auto add = [&](const std::string& model, const std::string& category, const Json& means) {
    table.add({model, category, means["prompts"].dump(),
               fmt::format("{:.4f}", means["validate"].get<double>()),
               fmt::format("{:.4f}", means["validate_online"].get<double>())});
  };
  for (const auto& model : result["models"]) {
    const auto name = model["model"].get<std::string>();
    for (const auto& [category, means] : model["categories"].items()) add(name, category, means);
    add(name, kAll, model);
  }
  table.print();
}

}  // namespace outrider::cli
