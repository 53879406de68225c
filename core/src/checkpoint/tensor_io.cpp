#include "outrider/checkpoint/tensor_io.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>

#include "checkpoint/torch/torch_state_dict.h"
#include "outrider/checkpoint/torch_tensors.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

struct DtypeName {
  at::ScalarType type;
  const char* safetensors;
  const char* name;
};

constexpr std::array kDtypes = {
    DtypeName{at::kFloat, "F32", "float32"}, DtypeName{at::kBFloat16, "BF16", "bfloat16"},
    DtypeName{at::kHalf, "F16", "float16"},  DtypeName{at::kDouble, "F64", "float64"},
    DtypeName{at::kLong, "I64", "int64"},    DtypeName{at::kInt, "I32", "int32"},
    DtypeName{at::kShort, "I16", "int16"},   DtypeName{at::kChar, "I8", "int8"},
    DtypeName{at::kByte, "U8", "uint8"},     DtypeName{at::kBool, "BOOL", "bool"},
};

at::ScalarType type_of(const std::string& name) {
  for (const auto& dtype : kDtypes) {
    if (name == dtype.safetensors) return dtype.type;
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("tensors of dtype {} are not supported", printable(name)));
}

bool is_aligned(const std::byte* data, const std::string& dtype) {
  return reinterpret_cast<uintptr_t>(data) % dtype_size(dtype) == 0;
}

const DtypeName& names_of(at::ScalarType type) {
  for (const auto& dtype : kDtypes) {
    if (type == dtype.type) return dtype;
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("tensors of type {} cannot be saved", at::toString(type)));
}

/// The bytes of tensors; `held` keeps copies from other devices or layouts alive meanwhile.
std::map<std::string, TensorView> views_of(const TensorMap& tensors, TensorMap& held) {
  std::map<std::string, TensorView> views;
  for (const auto& [name, tensor] : tensors) {
    const auto& cpu = held[name] = tensor.detach().to(at::kCPU).contiguous();
    views[name] = {names_of(cpu.scalar_type()).safetensors,
                   cpu.sizes().vec(),
                   {static_cast<const std::byte*>(cpu.data_ptr()), cpu.nbytes()}};
  }
  return views;
}

}  // namespace

at::Tensor tensor_over(const std::shared_ptr<const SafetensorsFile>& file, const TensorView& view) {
  const auto options = at::TensorOptions().dtype(type_of(view.dtype));
  if (view.bytes.empty()) return at::empty(view.shape, options);
  auto* data = const_cast<std::byte*>(view.bytes.data());
  if (!is_aligned(data, view.dtype)) {
    auto copy = at::empty(view.shape, options);
    std::memcpy(copy.data_ptr(), data, view.bytes.size());
    return copy;
  }
  return at::from_blob(
      data, view.shape, [file](void*) {}, options);
}

at::Tensor tensor_over(const std::shared_ptr<const TorchFile>& file, const TorchTensor& tensor) {
  auto* data = const_cast<std::byte*>(tensor.bytes.data());
  auto storage = at::from_blob(
      data, {static_cast<int64_t>(tensor.bytes.size())}, [file](void*) {},
      at::TensorOptions().dtype(at::kByte));
  if (!is_aligned(data, tensor.dtype)) storage = storage.clone();
  return storage.view(type_of(tensor.dtype)).as_strided(tensor.shape, tensor.strides);
}

TensorMap read_tensors(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  TensorMap tensors;
  for (const auto& [name, view] : file->tensors()) tensors[name] = tensor_over(file, view);
  return tensors;
}

void write_tensors(const std::filesystem::path& path, const TensorMap& tensors,
                   std::map<std::string, std::string> metadata) {
  TensorMap held;
  metadata.emplace("format", "pt");
  write_safetensors(path, views_of(tensors, held), metadata);
}

TensorMap read_torch_tensors(const std::filesystem::path& path) {
  const auto file = TorchFile::open(path);
  const auto& contents = file->contents();
  if (!contents.is_object()) {
    throw Error(ErrorCode::kInvalidFile, in_quotes(path.string()) + " holds no state dict");
  }
  TensorMap tensors;
  for (const auto& [name, value] : contents.items()) {
    const auto* tensor = file->tensor(value);
    if (tensor == nullptr) {
      throw Error(
          ErrorCode::kInvalidFile,
          fmt::format("{}: {} is no tensor", in_quotes(path.string()), in_quotes(name, 100)));
    }
    tensors[name] = tensor_over(file, *tensor);
  }
  return tensors;
}

void write_torch_tensors(const std::filesystem::path& path, const TensorMap& tensors) {
  TensorMap held;
  write_torch_state_dict(path, views_of(tensors, held));
}

at::ScalarType parse_dtype(const std::string& name) {
  for (const auto& dtype : kDtypes) {
    if (name == dtype.name && at::isFloatingType(dtype.type)) return dtype.type;
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("'{}' is no supported dtype", printable(name)),
              "accepted are float32, bfloat16, float16 and float64");
}

std::string dtype_name(at::ScalarType dtype) { return names_of(dtype).name; }

}  // namespace outrider
