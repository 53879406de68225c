#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "outrider/checkpoint/safetensors.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/problems.h"
#include "outrider/text.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

constexpr JsonLimits kIndexLimits{.bytes = 256u << 20, .depth = 8};
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kAdapterConfig = "adapter_config.json";

Error invalid(const fs::path& index, const std::string& reason) {
  return Error(ErrorCode::kInvalidFile, in_quotes(index.string()) + ": " + reason,
               "fetch the whole folder again, index and shards of the same version");
}

using Shards = std::map<std::string, std::set<std::string>>;
using OpenShards = std::map<std::string, std::shared_ptr<const SafetensorsFile>>;

/// Also true for a link whose target is missing, so that opening it tells what is wrong.
bool has_file(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.insert(it->path().filename().string());
  }
  return names;
}

std::string with_transformers(const fs::path& folder, const std::string& options) {
  return "convert it with the Python package transformers: "
         "AutoModelForCausalLM.from_pretrained(" +
         in_quotes(folder.string()) + options + ").save_pretrained(NEW_FOLDER)";
}

/// The base that an adapter names, or what to call one that names none.
std::string base_of_adapter(const fs::path& config) {
  try {
    const auto json = read_json_file(config);
    const auto base = json.is_object() ? json.value("base_model_name_or_path", Json()) : Json();
    if (base.is_string() && !base.get<std::string>().empty()) {
      return in_quotes(base.get<std::string>(), 200);
    }
  } catch (const Error&) {
  }
  return "BASE";
}

std::string merging_hint(const fs::path& folder) {
  const auto base = base_of_adapter(folder / kAdapterConfig);
  return fmt::format(
      "it holds an adapter alone ({}), which belongs to the base {}: merge the two with the Python "
      "package peft: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({}), {})"
      ".merge_and_unload().save_pretrained(NEW_FOLDER)",
      kAdapterConfig, base, base, in_quotes(folder.string()));
}

using Hint = std::string (*)(const fs::path& folder, const std::string& name);

std::string gguf_hint(const fs::path& folder, const std::string& name) {
  return "; " + with_transformers(folder, ", gguf_file=" + in_quotes(name));
}

std::string pickle_hint(const fs::path& folder, const std::string&) {
  return ", since unpickling can run code; " + with_transformers(folder, "");
}

std::string authors_hint(const fs::path&, const std::string&) {
  return ": it is in the format of the model's own authors; take the release in Hugging Face's "
         "format, with config.json and model.safetensors";
}

std::string shard_hint(const fs::path&, const std::string&) {
  return fmt::format(" alone: fetch {} too, which says what lies where", kIndexFile);
}

std::string other_hint(const fs::path&, const std::string&) {
  return fmt::format(
      ": accepted are {} and the files that {} names, as save_pretrained() of the Python package "
      "transformers writes them",
      kSingleFile, kIndexFile);
}

/// A file in place of safetensors, by the beginning and the end of its name.
struct OtherWeights {
  const char *begin, *end;
  Hint hint;
};

// The first of these that is there decides what to do.
constexpr OtherWeights kOtherWeights[] = {
    {"", ".gguf", gguf_hint},           {"pytorch_model", ".bin", pickle_hint},
    {"consolidated", "", authors_hint}, {"model-", ".safetensors", shard_hint},
    {"", ".safetensors", other_hint},   {"", ".bin", other_hint},
    {"", ".pth", other_hint},           {"", ".pt", other_hint},
    {"", ".ckpt", other_hint},          {"", ".h5", other_hint},
    {"", ".msgpack", other_hint},       {"", ".onnx", other_hint}};

/// The next step, by what there is instead of safetensors.
std::string conversion_hint(const fs::path& folder) {
  const auto names = names_in(folder);
  if (names.contains(kAdapterConfig)) return merging_hint(folder);
  for (const auto& other : kOtherWeights) {
    for (const auto& name : names) {
      if (!name.starts_with(other.begin) || !name.ends_with(other.end)) continue;
      return in_quotes(name) + " is not read" + other.hint(folder, name);
    }
  }
  return "name the folder of a Hugging Face checkpoint in safetensors format";
}

[[noreturn]] void no_tensors(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorCode::kFileNotFound, in_quotes(folder.string()) + " is not a folder",
                "name the folder of a Hugging Face checkpoint");
  }
  throw Error(
      ErrorCode::kFileNotFound,
      fmt::format("{} has neither {} nor {}", in_quotes(folder.string()), kSingleFile, kIndexFile),
      conversion_hint(folder));
}

bool is_plain_shard_name(const std::string& name) {
  return name.find('/') == name.npos && name.find('\0') == name.npos &&
         name.ends_with(".safetensors") && name[0] != '.';
}

/// Shard name → the tensors that the index places in it.
Shards read_index(const fs::path& path) {
  const Json json = read_json_file(path, kIndexLimits);
  const auto weights = json.is_object() ? json.find("weight_map") : json.end();
  if (weights == json.end() || !weights->is_object()) throw invalid(path, "no weight_map object");
  Shards shards;
  for (const auto& [tensor, shard] : weights->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!is_plain_shard_name(name)) {
      throw invalid(path, fmt::format("tensor {} is placed in {}; accepted is the plain name of a "
                                      ".safetensors file in the same folder",
                                      in_quotes(tensor, 200), printable(shard.dump())));
    }
    shards[name].insert(tensor);
  }
  return shards;
}

void check_complete(const fs::path& folder, const Shards& shards) {
  std::vector<std::string> missing;
  for (const auto& [shard, tensors] : shards) {
    if (!has_file(folder / shard)) missing.push_back(in_quotes(shard));
  }
  if (missing.empty()) return;
  throw Error(
      ErrorCode::kFileNotFound,
      fmt::format("{} lacks {} of the {} files that {} names:{}", in_quotes(folder.string()),
                  missing.size(), shards.size(), kIndexFile, indented(missing)),
      "fetch the missing files: a download that stopped goes on with the command that began it");
}

std::map<std::string, std::vector<std::string>> holders_in(const OpenShards& files) {
  std::map<std::string, std::vector<std::string>> holders;
  for (const auto& [shard, file] : files) {
    for (const auto& [tensor, view] : file->tensors()) holders[tensor].push_back(shard);
  }
  return holders;
}

/// Where the tensors of a sharded folder lie, against what its index says.
class Placement {
 public:
  explicit Placement(const Shards& shards) {
    for (const auto& [shard, tensors] : shards) {
      for (const auto& tensor : tensors) placed_[tensor] = shard;
    }
  }

  /// The shard that a tensor is taken from, empty where that is not decided.
  std::string choose(const std::string& tensor, const std::vector<std::string>& holders) {
    const auto found = placed_.find(tensor);
    const std::string named = found == placed_.end() ? "" : found->second;
    if (found != placed_.end()) placed_.erase(found);
    const bool is_there = std::ranges::find(holders, named) != holders.end();
    if (holders.size() > 1 && !is_there) {
      problems_.add(in_quotes(tensor, 200) + " lies in " + join(holders, " and in ") +
                    ", and the index names neither");
      return "";
    }
    if (!is_there) (named.empty() ? left_out_ : elsewhere_).push_back(in_quotes(tensor, 200));
    return is_there ? named : holders.front();
  }

  void finish(const fs::path& index) {
    for (const auto& [tensor, shard] : placed_) {
      problems_.add(in_quotes(shard) + " lacks " + in_quotes(tensor, 200));
    }
    if (!problems_.empty()) {
      throw invalid(index, "disagrees with its shards:" + indented(problems_.all()));
    }
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    add_note(notes, "leaves out", left_out_);
    add_note(notes, "misplaces", elsewhere_);
    return notes;
  }

 private:
  static void add_note(std::vector<std::string>& notes, const char* what,
                       std::vector<std::string> tensors) {
    constexpr size_t kNamed = 3;
    if (tensors.empty()) return;
    const auto count = tensors.size();
    if (count > kNamed) {
      tensors.resize(kNamed);
      tensors.emplace_back("…");
    }
    notes.push_back(fmt::format("{} {} {} of its shards, read from where {}: {}", kIndexFile, what,
                                count == 1 ? "a tensor" : fmt::format("{} tensors", count),
                                count == 1 ? "it lies" : "they lie", join(tensors, ", ")));
  }

  std::map<std::string, std::string> placed_;  // tensor → shard, of those not found yet
  Problems problems_;
  std::vector<std::string> left_out_, elsewhere_;
};

OpenShards open_all(const fs::path& folder, const Shards& shards) {
  OpenShards files;
  for (const auto& [shard, tensors] : shards) files[shard] = SafetensorsFile::open(folder / shard);
  return files;
}

}  // namespace

SafetensorsFolder SafetensorsFolder::open(const std::filesystem::path& folder) {
  const auto index = folder / kIndexFile;
  const bool is_single = has_file(folder / kSingleFile);
  if (!is_single && !has_file(index)) no_tensors(folder);
  SafetensorsFolder result;
  if (is_single) {
    const auto file = SafetensorsFile::open(folder / kSingleFile);
    for (const auto& [name, view] : file->tensors()) result.tensors_[name] = {file, &view};
    return result;
  }
  const auto shards = read_index(index);
  check_complete(folder, shards);
  const auto files = open_all(folder, shards);
  Placement placement(shards);
  for (const auto& [name, holders] : holders_in(files)) {
    const auto shard = placement.choose(name, holders);
    if (shard.empty()) continue;
    const auto& file = files.at(shard);
    result.tensors_[name] = {file, &file->tensors().at(name)};
  }
  placement.finish(index);
  result.notes_ = placement.notes();
  return result;
}

}  // namespace outrider
