#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "byte_cursor.h"
#include "outrider/checkpoint/torch_file.h"
#include "outrider/error.h"
#include "outrider/files/atomic_file.h"
#include "outrider/text.h"
#include "pickle_names.h"
#include "torch_state_dict.h"
#include "zip_writer.h"

namespace outrider {
namespace {

using IsTuple = std::function<bool(const Json& list)>;

// --- the pickle --------------------------------------------------------------------------------

/// Protocol 2, without a memo: every value is written where it stands.
class PickleWriter {
 public:
  explicit PickleWriter(IsTuple is_tuple) : is_tuple_(std::move(is_tuple)) {}

  std::string write(const Json& value) {
    out_ = "\x80\x02";
    add(value);
    return out_ + ".";
  }

  /// A dict of tensors, whose storages are the entries "0", "1", … in the order of the names.
  std::string write(const std::map<std::string, TensorView>& tensors) {
    out_ = "\x80\x02}(";
    int64_t key = 0;
    for (const auto& [name, tensor] : tensors) {
      add(std::string_view(name));
      add_tensor(tensor, key++);
    }
    return out_ + "u.";
  }

 private:
  // torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)
  void add_tensor(const TensorView& tensor, int64_t key) {
    out_ += "ctorch._utils\n_rebuild_tensor_v2\n(";
    add_storage(tensor, key);
    add(int64_t{0});
    std::vector<int64_t> strides(tensor.shape.size());
    int64_t stride = 1;
    for (size_t i = strides.size(); i-- > 0; stride *= tensor.shape[i]) strides[i] = stride;
    add_tuple(tensor.shape);
    add_tuple(strides);
    out_ +=
        "\x89"
        "ccollections\nOrderedDict\n)RtR";
  }

  void add_storage(const TensorView& tensor, int64_t key) {
    const auto type = pickle::storage_class(tensor.dtype);
    if (type.empty()) {
      throw Error(ErrorCode::kUnsupported, "a torch file cannot hold tensors of " + tensor.dtype);
    }
    out_ += '(';
    add(std::string_view("storage"));
    out_ += fmt::format("ctorch\n{}\n", type);
    add(std::string_view(std::to_string(key)));
    add(std::string_view("cpu"));
    add(static_cast<int64_t>(tensor.bytes.size() / dtype_size(tensor.dtype)));
    out_ += "tQ";
  }

  void add_tuple(const std::vector<int64_t>& values) {
    out_ += '(';
    for (const int64_t value : values) add(value);
    out_ += 't';
  }

  void add(const Json& value) {
    switch (value.type()) {
      case Json::value_t::null:
        out_ += 'N';
        return;
      case Json::value_t::boolean:
        out_ += value.get<bool>() ? '\x88' : '\x89';
        return;
      case Json::value_t::number_float:
        return add(value.get<double>());
      case Json::value_t::number_integer:
      case Json::value_t::number_unsigned:
        return add(value.get<int64_t>());
      case Json::value_t::string:
        return add(std::string_view(value.get_ref<const std::string&>()));
      case Json::value_t::array:
        return add_list(value);
      case Json::value_t::object:
        return add_dict(value);
      default:
        throw Error(ErrorCode::kInvalidArgument, "a torch file cannot hold bytes");
    }
  }

  void add(double value) {
    if (!std::isfinite(value)) {
      throw Error(ErrorCode::kInvalidArgument, "a torch file cannot hold a number not finite");
    }
    out_ += 'G';
    put(out_, __builtin_bswap64(std::bit_cast<uint64_t>(value)));
  }

  void add(int64_t value) {
    if (value >= std::numeric_limits<int32_t>::min() &&
        value <= std::numeric_limits<int32_t>::max()) {
      out_ += 'J';
      return put(out_, static_cast<int32_t>(value));
    }
    out_ += "\x8a\x08";
    put(out_, value);
  }

  void add(std::string_view text) {
    if (!is_utf8(text)) {
      throw Error(ErrorCode::kInvalidArgument,
                  "a torch file cannot hold " + in_quotes(text, 80) + ": it is not UTF-8");
    }
    out_ += 'X';
    put(out_, static_cast<uint32_t>(text.size()));
    out_ += text;
  }

  void add_list(const Json& list) {
    const bool is_tuple = is_tuple_ && is_tuple_(list);
    out_ += is_tuple ? "(" : "](";
    for (const auto& item : list) add(item);
    out_ += is_tuple ? 't' : 'e';
  }

  void add_dict(const Json& dict) {
    out_ += "}(";
    for (const auto& [key, value] : dict.items()) {
      add(std::string_view(key));
      add(value);
    }
    out_ += 'u';
  }

  IsTuple is_tuple_;
  std::string out_;
};

// --- the archive -------------------------------------------------------------------------------

void write_archive(const std::filesystem::path& path, const std::string& pickle,
                   const std::map<std::string, TensorView>& storages) {
  constexpr size_t kAlignment = 64;  // torch's, for readers that map the file
  const auto folder = path.stem().string();
  write_file_atomically(path, [&](std::ostream& out) {
    ZipWriter zip(out);
    zip.add(folder + "/data.pkl", pickle);
    zip.add(folder + "/byteorder", "little");
    size_t key = 0;
    for (const auto& [name, tensor] : storages) {
      zip.add(fmt::format("{}/data/{}", folder, key++), tensor.bytes, kAlignment);
    }
    zip.add(folder + "/version", "3\n");
    zip.finish();
  });
}

}  // namespace

void write_torch_file(const std::filesystem::path& path, const Json& value,
                      const std::function<bool(const Json& list)>& is_tuple) {
  write_archive(path, PickleWriter(is_tuple).write(value), {});
}

void write_torch_state_dict(const std::filesystem::path& path,
                            const std::map<std::string, TensorView>& tensors) {
  write_archive(path, PickleWriter({}).write(tensors), tensors);
}

}  // namespace outrider
