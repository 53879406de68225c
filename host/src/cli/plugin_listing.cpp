#include "cli/plugin_listing.h"

#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/text.h"
#include "plugins/provided_names.h"

namespace outrider::cli {
namespace {

std::string or_none(const std::string& text) { return text.empty() ? "none" : text; }

Json listing_json(const PluginListing& listing) {
  Json json = {{"path", listing.path.string()}, {"usable", listing.is_usable()}};
  if (listing.info) json.update(to_json(*listing.info));
  if (!listing.is_usable()) {
    json["problem"] = listing.problem;
    json["problem_code"] = error_code_name(listing.problem_code);
    json["hint"] = listing.hint;
  }
  return json;
}

}  // namespace

Json to_json(const PluginInfo& plugin) {
  return {{"path", plugin.path.string()},
          {"name", plugin.name},
          {"version", plugin.version.to_string()},
          {"modes", plugin.modes},
          {"bases", plugin.bases},
          {"draft_models", plugin.draft_models},
          {"sha256", plugin.sha256},
          {"torch", plugin.torch_build},
          {"cuda_archs", plugin.cuda_archs},
          {"built_in", plugin.is_built_in}};
}

Json to_json(const std::vector<PluginListing>& listings) {
  auto json = Json::array();
  for (const auto& listing : listings) json.push_back(listing_json(listing));
  return json;
}

std::string status(const PluginListing& listing) {
  return listing.is_usable() ? "usable" : std::string(error_code_name(listing.problem_code));
}

void print_list(const std::vector<PluginListing>& listings) {
  if (listings.empty()) {
    note("no plugin is installed; `outrider plugin add FILE` installs one");
    return;
  }
  Table table({"NAME", "VERSION", "PROVIDES", "STATUS", "FILE"});
  for (const auto& listing : listings) {
    const auto info = listing.info.value_or(PluginInfo{});
    table.add({listing.info ? info.name : "?", listing.info ? info.version.to_string() : "?",
               listing.info ? join(provided_names(info), ", ") : "?", status(listing),
               listing.info ? listing.info->location() : printable(listing.path.string())});
  }
  table.print();
  for (const auto& listing : listings) {
    if (!listing.is_usable()) note(fmt::format("{}\n  hint: {}", listing.problem, listing.hint));
  }
}

void print_details(const PluginInfo& plugin, const std::string& status) {
  Table table({"plugin", plugin.name});
  table.add({"version", plugin.version.to_string()});
  table.add({"modes", or_none(join(plugin.modes, ", "))});
  table.add({"base architectures", or_none(join(plugin.bases, ", "))});
  table.add({"draft models", or_none(join(plugin.draft_models, ", "))});
  table.add({"file", plugin.location()});
  table.add({"sha256", or_none(plugin.sha256)});
  table.add({"LibTorch", plugin.torch_build});
  table.add({"CUDA architectures", or_none(plugin.cuda_archs)});
  table.add({"status", status});
  table.print();
}

std::vector<std::string> names_of(const std::vector<PluginListing>& listings) {
  std::vector<std::string> names;
  for (const auto& listing : listings) {
    if (listing.info) names.push_back(listing.info->name);
  }
  return names;
}

}  // namespace outrider::cli
