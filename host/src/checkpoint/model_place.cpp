#include "model_place.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <vector>

#include "companion_files.h"
#include "outrider/error.h"
#include "outrider/files/git_lfs.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfigFile = "config.json";
constexpr size_t kMostFoldersNamed = 3;

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

bool has_config_file(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kConfigFile, error);
}

/// Folders with a config.json at most three levels below, such as those of a training run or of the
/// Hub's cache.
std::vector<std::string> model_folders_below(const fs::path& folder) {
  constexpr int kDeepest = 2, kMostEntries = 2000;
  std::vector<std::string> found;
  std::error_code error;
  int seen = 0;
  for (fs::recursive_directory_iterator it(folder, error), end;
       !error && it != end && ++seen < kMostEntries; it.increment(error)) {
    if (it.depth() >= kDeepest) it.disable_recursion_pending();
    std::error_code ignored;
    if (it->is_directory(ignored) && has_config_file(it->path())) {
      found.push_back(it->path().string());
    }
  }
  std::ranges::sort(found);
  return found;
}

std::string named_folders(const std::vector<std::string>& folders) {
  std::vector<std::string> quoted;
  for (size_t i = 0; i < std::min(folders.size(), kMostFoldersNamed); ++i) {
    quoted.push_back(in_quotes(folders[i]));
  }
  return join(quoted, ", ") + (folders.size() > kMostFoldersNamed ? ", …" : "");
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// ---- Names of the Hugging Face Hub --------------------------------------------------------------

bool is_hub_word(const std::string& word) {
  const auto is_fine = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  return !word.empty() && word.front() != '.' && word.front() != '-' &&
         std::ranges::all_of(word, is_fine);
}

/// "org/name" of such a name or of a page's address; empty where it can be none.
std::string hub_name(std::string given) {
  for (const std::string prefix : {"https://", "http://", "hf://", "huggingface.co/", "hf.co/"}) {
    if (given.starts_with(prefix)) given.erase(0, prefix.size());
  }
  if (const auto page = given.find("/tree/"); page != given.npos) given.resize(page);
  if (given.ends_with('/')) given.pop_back();
  const auto slash = given.find('/');
  const bool fits = slash != given.npos && is_hub_word(given.substr(0, slash)) &&
                    is_hub_word(given.substr(slash + 1));
  return fits ? given : "";
}

fs::path hub_cache() {
  if (const auto cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const auto home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  const auto cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? fs::path(variable("HOME")) / ".cache" : fs::path(cache)) /
         "huggingface/hub";
}

std::string hub_hint(const std::string& given) {
  const auto name = hub_name(given);
  if (name.empty()) return "";
  const auto slash = name.find('/');
  const auto cached = model_folders_below(
      hub_cache() / fmt::format("models--{}--{}", name.substr(0, slash), name.substr(slash + 1)));
  if (!cached.empty()) {
    return fmt::format("a model of this name is in the Hub's cache: give the folder {}",
                       named_folders(cached));
  }
  return fmt::format(
      "Outrider downloads nothing: if this is a name on the Hugging Face Hub, `hf download {} "
      "--local-dir {}` fetches it, and that folder is what to give",
      name, name.substr(slash + 1));
}

// ---- Folders that are not there -----------------------------------------------------------------

std::string tilde_hint(const std::string& given) {
  if (!given.starts_with('~')) return "";
  std::string hint = "the shell leaves '~' as it is in quotes and behind '='";
  const auto home = variable("HOME");
  const auto meant = home + given.substr(1);
  if (!home.empty() && given.starts_with("~/")) hint += ": give " + in_quotes(meant);
  return hint;
}

std::string neighbour_hint(const fs::path& folder) {
  const auto parent = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    if (is_folder(it->path())) names.push_back(it->path().filename().string());
  }
  const auto nearest = nearest_names(folder.filename().string(), names);
  if (nearest.empty()) return "";
  return fmt::format("did you mean {}?",
                     in_quotes((folder.parent_path() / nearest.front()).string()));
}

std::string file_hint(const fs::path& file, const std::string& otherwise) {
  const auto folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  return has_config_file(folder) ? "give its folder, " + in_quotes(folder.string()) : otherwise;
}

std::string hint_for_missing(const fs::path& folder, const std::string& otherwise) {
  const auto given = folder.string();
  if (auto hint = tilde_hint(given); !hint.empty()) return hint;
  if (auto hint = neighbour_hint(folder); !hint.empty()) return hint;
  if (auto hint = hub_hint(given); !hint.empty()) return hint;
  return otherwise;
}

// ---- Git LFS ------------------------------------------------------------------------------------

bool holds_weights(const std::string& name) {
  return name == "model.safetensors" ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

}  // namespace

void require_folder(const fs::path& folder, const std::string& hint) {
  if (is_folder(folder)) return;
  std::error_code error;
  const bool is_file = fs::exists(folder, error);
  throw Error(
      ErrorCode::kFileNotFound,
      printable(folder.string(), 1000) + (is_file ? ": a file, not a folder" : ": no such folder"),
      is_file ? file_hint(folder, hint) : hint_for_missing(folder, hint));
}

std::set<std::string> pointers_that_matter(const fs::path& folder) {
  auto names = git_lfs_pointers(folder);
  std::error_code error;
  const bool has_weights = fs::exists(folder / "model.safetensors", error) ||
                           fs::exists(folder / "model.safetensors.index.json", error);
  std::erase_if(names, [&](const std::string& name) {
    return has_weights && !holds_weights(name) && !is_beside_weights(name);
  });
  return names;
}

void refuse_pointers(const fs::path& folder, const std::set<std::string>& names) {
  if (names.empty()) return;
  std::vector<std::string> quoted;
  for (const auto& name : names) quoted.push_back(in_quotes(name));
  throw Error(
      ErrorCode::kInvalidFile,
      fmt::format("{} holds {} Git LFS pointers in place of the files that they stand for:{}",
                  in_quotes(folder.string()), names.size(), indented(quoted)),
      kFetchFromGitLfs);
}

void require_tokenizer_folder(const fs::path& folder) {
  require_folder(folder,
                 "the folder needs tokenizer.json, tokenizer_config.json and a chat template");
  auto pointers = git_lfs_pointers(folder);
  std::erase_if(pointers, [](const std::string& name) { return !is_beside_weights(name); });
  refuse_pointers(folder, pointers);
}

void require_no_git_lfs_pointers(const fs::path& folder) {
  refuse_pointers(folder, pointers_that_matter(folder));
}

void require_config_file(const fs::path& folder) {
  if (has_config_file(folder)) return;
  const auto below = model_folders_below(folder);
  throw Error(ErrorCode::kFileNotFound,
              in_quotes((folder / kConfigFile).string()) + " does not exist",
              below.empty() ? "" : "folders below it have one: " + named_folders(below));
}

}  // namespace outrider
