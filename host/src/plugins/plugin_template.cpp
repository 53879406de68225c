#include "outrider/host/plugin_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"
#include "plugins/plugin_title.h"
#include "plugins/search_path.h"
#include "plugins/stamp_text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

using Replacements = std::vector<std::pair<std::string, std::string>>;

// "my_algo" → "MyAlgo"
std::string camel_case(const std::string& name) {
  std::string result;
  bool starts_word = true;
  for (const char c : name) {
    if (c != '_') result += starts_word ? static_cast<char>(std::toupper(c)) : c;
    starts_word = c == '_';
  }
  return result;
}

std::string upper_case(std::string name) {
  for (char& c : name) c = static_cast<char>(std::toupper(c));
  return name;
}

std::string replaced(std::string text, const Replacements& replacements) {
  for (const auto& [from, to] : replacements) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  }
  return text;
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.fail()) {
    throw Error(ErrorCode::kFileUnreadable, path.string() + ": cannot be read");
  }
  return std::move(text).str();
}

fs::path template_folder() {
  const auto folder = installed_data_folder() / "template";
  if (fs::is_directory(folder)) return folder;
  throw Error(ErrorCode::kFileNotFound,
              fmt::format("{}: the plugin template is not there", folder.string()),
              "install Outrider whole: `cmake --install build --prefix FOLDER`");
}

void check_name(const std::string& name) {
  if (!is_plugin_name(name)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} cannot be a plugin's name", in_quotes(name)),
                "accepted are lower-case letters, digits and '_', a letter first, at most 63");
  }
  for (const auto& listing : plugin_loader().list()) {
    if (!listing.info) continue;
    const auto& modes = listing.info->modes;
    if (listing.info->name != name && std::ranges::find(modes, name) == modes.end()) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} is the name of an installed plugin or of its mode: {}",
                            in_quotes(name), plugin_title(*listing.info)),
                "choose another name");
  }
}

// A file of this name would hide files from the repository that holds the template.
fs::path written_name(const fs::path& name) {
  return name.filename() == "gitignore" ? name.parent_path() / ".gitignore" : name;
}

}  // namespace

fs::path sdk_prefix() {
  const auto prefix = installed_data_folder().parent_path().parent_path();
  return fs::exists(prefix / "lib/cmake/OutriderSDK") ? prefix : fs::path();
}

void write_plugin_project(const std::string& name, const fs::path& folder) {
  check_name(name);
  const Replacements replacements = {{"@name@", name},
                                     {"@Name@", camel_case(name)},
                                     {"@NAME@", upper_case(name)},
                                     {"@prefix@", sdk_prefix().string()}};
  const auto from = template_folder();
  AtomicDirectory directory(folder);
  for (const auto& entry : fs::recursive_directory_iterator(from)) {
    if (!entry.is_regular_file()) continue;
    const auto target = directory.staging() / written_name(fs::relative(entry.path(), from));
    fs::create_directories(target.parent_path());
    write_file_atomically(target, [&](std::ostream& out) {
      out << replaced(content_of(entry.path()), replacements);
    });
  }
  directory.commit();
}

}  // namespace outrider
