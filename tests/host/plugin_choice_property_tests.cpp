// Which plugin a checkpoint gets, over random sets of installed ones, against the rule in words.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "outrider/host/plugin_lock.h"
#include "outrider/host/sha256.h"
#include "plugin_fixtures.h"
#include "small_plugin.h"

namespace outrider::choice_property_tests {
namespace {

using namespace testing;

// By precedence; ranges list what is in them, so that nothing of the rule is computed here.
constexpr const char* kVersions[] = {"0.1.0-rc.1",   "0.1.0",         "0.1.3", "0.1.10",
                                     "0.2.0-beta.2", "0.2.0-beta.11", "0.2.0", "1.0.0"};

struct Range {
  const char* text;
  std::set<int> versions;
};

const Range kRanges[] = {{"*", {1, 2, 3, 6, 7}},
                         {"^0.1", {1, 2, 3}},
                         {"~0.1.3", {2, 3}},
                         {"0.1.3", {2}},
                         {"^0.1.0-rc.1", {0, 1, 2, 3}},
                         {">=0.1.3 <1", {2, 3, 6}},
                         {"^0.2.0-beta.2", {4, 5, 6}},
                         {">0.2.0-beta.2 <=1.0.0", {5, 6, 7}},
                         {"^3", {}}};

enum class Defect { kNone, kOtherSdk, kForeignLibrary };

struct Installed {
  std::string name, bytes, sha256;
  int version;
  Defect defect;
  std::filesystem::path folder = {};
};

Installed make_plugin(const std::string& name, int version, int content, Defect defect) {
  auto stamp = host_stamp();
  set_text(stamp.plugin_name, name);
  set_text(stamp.plugin_version, kVersions[version]);
  set_text(stamp.modes, name);
  if (defect == Defect::kOtherSdk) stamp.sdk_abi += 1;
  auto bytes = small_plugin(stamp, std::string(static_cast<size_t>(content), 'x'));
  if (defect == Defect::kForeignLibrary) bytes.replace(bytes.find("libc.so.6"), 4, "evil");
  return {name, bytes, sha256_of(bytes), version, defect, {}};
}

std::vector<Installed> random_plugins(std::mt19937& random) {
  std::vector<Installed> plugins;
  for (size_t count = random() % 8; plugins.size() < count;) {
    if (!plugins.empty() && random() % 5 == 0) {
      plugins.push_back(plugins[random() % plugins.size()]);
      continue;
    }
    const auto defect = random() % 4 == 0 ? static_cast<Defect>(1 + random() % 2) : Defect::kNone;
    plugins.push_back(make_plugin(random() % 6 == 0 ? "rival" : "probe",
                                  static_cast<int>(random() % std::size(kVersions)),
                                  static_cast<int>(random() % 2), defect));
  }
  return plugins;
}

/// The plugins in several folders, under names that say nothing.
struct Store {
  Store(std::vector<Installed> all, std::mt19937& random) : plugins(std::move(all)) {
    std::shuffle(plugins.begin(), plugins.end(), random);
    for (size_t i = 0; i < plugins.size(); ++i) {
      plugins[i].folder = folders[random() % std::size(folders)].path();
      write_bytes(plugins[i].folder / (std::to_string(i) + ".outrider.so"),
                  as_bytes(plugins[i].bytes));
    }
    for (const auto& folder : folders) search_path.push_back(folder.path());
    std::shuffle(search_path.begin(), search_path.end(), random);
  }

  PluginInfo resolve(const PluginRequirement& wanted) {
    return PluginLoader({.search_path = search_path, .require_lock = false}, registry)
        .resolve(wanted);
  }

  std::vector<Installed> plugins;
  PrivateFolder folders[3];
  std::vector<std::filesystem::path> search_path;
  SpeculativeDecodingModeRegistry registry;
};

/// A hash, or an error with everything that its text must hold.
struct Expected {
  std::string sha256;
  std::set<ErrorCode> codes;
  std::vector<std::string> parts;
};

Expected expect_unusable(const std::vector<Installed>& plugins) {
  Expected expected;
  for (const auto& plugin : plugins) {
    const bool is_sdk = plugin.defect == Defect::kOtherSdk;
    expected.codes.insert(is_sdk ? ErrorCode::kPluginIncompatible
                                 : ErrorCode::kPluginBadDependency);
    expected.parts.push_back(std::string("probe ") + kVersions[plugin.version] +
                             (is_sdk ? " cannot run in this program" : " is not linked as"));
  }
  return expected;
}

Expected expect_none(const std::vector<Installed>& plugins) {
  Expected expected{.sha256 = {},
                    .codes = {ErrorCode::kPluginNotFound},
                    .parts = {"`outrider plugin add FILE` installs one"}};
  for (const auto& plugin : plugins) {
    if (plugin.defect != Defect::kNone) continue;
    expected.parts.push_back(plugin.name + " " + kVersions[plugin.version] + " (/");
  }
  if (expected.parts.size() == 1) expected.parts.push_back("no plugin is");
  return expected;
}

/// The exact file; else the highest version in range, of the first folder that has it, if its bytes
/// there are one; else what is wrong with those that would do; else what is there.
Expected by_the_rule(const Store& store, const Range& range, const std::string& sha256) {
  using Folders = std::map<std::filesystem::path, std::set<std::string>>;
  std::map<int, Folders> in_range;
  std::vector<Installed> unusable;
  for (const auto& plugin : store.plugins) {
    const bool is_exact = plugin.sha256 == sha256, fits = range.versions.contains(plugin.version);
    if (plugin.name != "probe" || !(is_exact || fits)) continue;
    if (plugin.defect != Defect::kNone) {
      unusable.push_back(plugin);
    } else if (is_exact) {
      return {.sha256 = sha256, .codes = {}, .parts = {}};
    } else {
      in_range[plugin.version][plugin.folder].insert(plugin.sha256);
    }
  }
  if (!in_range.empty()) {
    const auto& [version, folders] = *in_range.rbegin();
    const auto first = std::ranges::find_if(
        store.search_path, [&](const auto& folder) { return folders.contains(folder); });
    const auto& files = folders.at(*first);
    if (files.size() == 1) return {.sha256 = *files.begin(), .codes = {}, .parts = {}};
    return {.sha256 = {},
            .codes = {ErrorCode::kPluginAmbiguous},
            .parts = {std::string("two different files are plugin probe ") + kVersions[version]}};
  }
  return unusable.empty() ? expect_none(store.plugins) : expect_unusable(unusable);
}

std::string random_hash(const std::vector<Installed>& plugins, std::mt19937& random) {
  if (random() % 2 == 0) return "";
  if (plugins.empty() || random() % 3 == 0) return sha256_of("a file that is nowhere");
  return plugins[random() % plugins.size()].sha256;
}

void check_choice(Store& store, const PluginRequirement& wanted, const Expected& expected) {
  try {
    const auto chosen = store.resolve(wanted);
    CHECK(chosen.sha256 == expected.sha256);
  } catch (const Error& error) {
    const std::string text = std::string(error.what()) + "\n" + error.hint();
    CAPTURE(text);
    CHECK(expected.codes.contains(error.code()));
    for (const auto& part : expected.parts) {
      CAPTURE(part);
      CHECK(text.find(part) != text.npos);
    }
  }
}

TEST_CASE("whatever is installed and wherever it lies, the rule decides") {
  std::mt19937 random(5);
  int chosen = 0, ambiguous = 0, unusable = 0, missing = 0;
  for (int round = 0; round < 200; ++round) {
    CAPTURE(round);
    const auto plugins = random_plugins(random);
    const auto& range = kRanges[random() % std::size(kRanges)];
    const auto hash = random_hash(plugins, random);
    for (int arrangement = 0; arrangement < 3; ++arrangement) {
      Store store(plugins, random);
      const auto expected = by_the_rule(store, range, hash);
      check_choice(store, {.name = "probe", .range = range.text, .sha256 = hash}, expected);
      chosen += expected.codes.empty();
      ambiguous += expected.codes.contains(ErrorCode::kPluginAmbiguous);
      missing += expected.codes.contains(ErrorCode::kPluginNotFound);
      unusable += expected.codes.contains(ErrorCode::kPluginIncompatible) ||
                  expected.codes.contains(ErrorCode::kPluginBadDependency);
    }
  }
  CHECK(chosen > 50);
  CHECK(ambiguous > 1);
  CHECK(missing > 20);
  CHECK(unusable > 20);
}

}  // namespace
}  // namespace outrider::choice_property_tests
