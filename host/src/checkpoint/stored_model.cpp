#include "stored_model.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <set>

#include "modelopt_state.h"
#include "outrider/checkpoint/tensor_io.h"
#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"

namespace outrider {
namespace fs = std::filesystem;
namespace {

double element_count(const std::vector<int64_t>& shape) {
  double count = 1;
  for (const int64_t size : shape) count *= static_cast<double>(size);
  return count;
}

StoredTensor stored_tensor(const std::shared_ptr<const SafetensorsFile>& file,
                           const TensorView& view) {
  return {[file, &view] { return tensor_over(file, view); }, view.bytes.size(),
          element_count(view.shape)};
}

// A zip file, or the older format, which is then refused by its name.
bool is_torch_file(const fs::path& path) {
  std::array<char, 2> start{};
  std::ifstream(path, std::ios::binary).read(start.data(), start.size());
  return start == std::array{'P', 'K'} || start == std::array{'\x80', '\x02'};
}

StoredTensors tensors_in(const std::shared_ptr<const TorchFile>& file, const Json& dict,
                         const std::string& origin) {
  StoredTensors tensors;
  std::set<const std::byte*> counted;  // ends of storages, which tensors may share
  for (const auto& [name, value] : dict.items()) {
    const auto* tensor = file->tensor(value);
    if (tensor == nullptr) {
      throw Error(ErrorCode::kInvalidFile, fmt::format("{}: {} in 'model_state_dict' is no tensor",
                                                       in_quotes(origin), in_quotes(name, 100)));
    }
    const bool is_new = counted.insert(tensor->bytes.data() + tensor->bytes.size()).second;
    tensors[name] = {[file, tensor] { return tensor_over(file, *tensor); },
                     is_new ? tensor->bytes.size() : 0, element_count(tensor->shape)};
  }
  return tensors;
}

StoredModel read_mto_file(const fs::path& path, const std::optional<std::string>& numerics) {
  const auto file = TorchFile::open(path);
  const auto& contents = file->contents();
  const bool fits = contents.is_object() && contents.contains("modelopt_state") &&
                    contents.contains("model_state_dict") &&
                    contents["model_state_dict"].is_object();
  if (!fits) {
    throw Error(ErrorCode::kInvalidFile,
                in_quotes(path.string()) + " has no 'modelopt_state' beside a 'model_state_dict'",
                "accepted are files of `outrider save` and of ModelOpt's mto.save()");
  }
  StoredModel stored{tensors_in(file, contents["model_state_dict"], path.string()),
                     metadata_from_modelopt(contents["modelopt_state"], path.string(), numerics)};
  if (!stored.metadata.modes.empty()) return stored;
  throw Error(ErrorCode::kNotConverted,
              in_quotes(path.string()) + " holds a model that was never converted",
              "save it after mtsp.convert()");
}

StoredModel read_outrider_file(const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  const auto state = file->metadata().find(kStateKey);
  if (state == file->metadata().end()) {
    throw Error(ErrorCode::kInvalidFile,
                fmt::format("{}: its __metadata__ has no '{}'", path.string(), kStateKey),
                "give a file that `outrider save` wrote, or a converted folder");
  }
  const auto origin = fmt::format("{} ({})", path.string(), kStateKey);
  StoredModel stored;
  stored.metadata = CheckpointMetadata::from_json(parse_json(state->second, origin), origin);
  for (const auto& [name, view] : file->tensors()) stored.tensors[name] = stored_tensor(file, view);
  return stored;
}

}  // namespace

StoredTensors stored_tensors(const std::map<std::string, SafetensorsFolder::Entry>& entries) {
  StoredTensors tensors;
  for (const auto& [name, entry] : entries) {
    tensors[name] = stored_tensor(entry.file, *entry.view);
  }
  return tensors;
}

StoredTensors stored_tensors(const TensorMap& tensors) {
  StoredTensors stored;
  std::set<const char*> counted;  // ends of storages: views begin anywhere
  for (const auto& [name, tensor] : tensors) {
    const auto& storage = tensor.storage();
    const auto* end = static_cast<const char*>(storage.data()) + storage.nbytes();
    stored[name] = {[tensor] { return tensor; }, counted.insert(end).second ? storage.nbytes() : 0,
                    static_cast<double>(tensor.numel())};
  }
  return stored;
}

size_t total_bytes(const StoredTensors& tensors) {
  size_t total = 0;
  for (const auto& [name, tensor] : tensors) total += tensor.bytes;
  return total;
}

StoredModel StoredModel::read(const fs::path& file_or_folder,
                              const std::optional<std::string>& numerics) {
  if (fs::is_directory(file_or_folder)) {
    auto metadata = read_metadata(file_or_folder, numerics);
    if (metadata.modes.empty()) metadata = CheckpointMetadata::read(file_or_folder);
    return {stored_tensors(SafetensorsFolder::open(file_or_folder).tensors()), std::move(metadata)};
  }
  if (is_torch_file(file_or_folder)) return read_mto_file(file_or_folder, numerics);
  refuse_numerics(file_or_folder, numerics);
  return read_outrider_file(file_or_folder);
}

}  // namespace outrider
