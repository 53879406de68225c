#pragma once

#include <string>
#include <vector>

#include "cli/common.h"
#include "outrider/host/plugin_loader.h"

namespace outrider::cli {

Json to_json(const PluginInfo& plugin);
Json to_json(const std::vector<PluginListing>& listings);

/// The modes, base architectures and draft models that a plugin brings.
std::vector<std::string> provided(const PluginInfo& plugin);

/// A table of plugins on stdout, and on stderr what is wrong with them.
void print_list(const std::vector<PluginListing>& listings);

/// Everything about one plugin, one line for each fact.
void print_details(const PluginInfo& plugin, const std::string& status);

/// "usable", or the name of the error.
std::string status(const PluginListing& listing);

/// Names of the plugins that can be read.
std::vector<std::string> names_of(const std::vector<PluginListing>& listings);

}  // namespace outrider::cli
