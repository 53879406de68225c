#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "outrider/json.h"

namespace outrider::pickle {

/// The Python objects that a file may ask for by name; all others are refused.
enum class Global : uint8_t { kOrderedDict, kRebuildTensor, kStorageType };

struct GlobalRef {
  Global global;
  std::string_view dtype;  // of a storage type: "F32", as safetensors names it
};
struct NodeRef {
  uint32_t index;
};
struct StorageRef {
  uint32_t index;
};
struct TensorRef {
  uint32_t index;
};

/// What stands on the stack. Texts are views into the pickle.
using Value = std::variant<std::monostate, bool, int64_t, double, std::string_view, GlobalRef,
                           NodeRef, StorageRef, TensorRef>;

enum class NodeKind : uint8_t { kList, kTuple, kDict, kOrderedDict };

/// A container. Keys and values of a dict alternate.
struct Node {
  NodeKind kind;
  /// Somebody refers to it from elsewhere: it may not grow any more, so that no container can
  /// reach itself and the sizes below stay true.
  bool is_shared = false;
  uint16_t depth = 1;
  /// Values in it when everything that is referred to twice is written out twice, long texts
  /// counted by their length.
  uint32_t weight = 1;
  std::vector<Value> items{};
};

/// A storage, as the file describes it.
struct Storage {
  std::string_view dtype, key;
  int64_t count = 0;  // elements
};

/// A tensor over a storage, as the file describes it: nothing of it is checked yet.
struct Tensor {
  Storage storage;
  int64_t offset = 0;  // elements
  std::vector<int64_t> shape{}, strides{};
};

/// The containers of one pickle, and what they refer to. Every limit that keeps a hostile file from
/// taking memory is here; each throws std::length_error with its reason.
class Heap {
 public:
  static constexpr uint32_t kMostValues = 1u << 20, kMostNodes = 1u << 18, kMostWeight = 1u << 19;
  static constexpr uint16_t kMostDepth = 64;

  NodeRef add_node(NodeKind kind);
  StorageRef add_storage(Storage storage);
  TensorRef add_tensor(Tensor tensor);
  /// Puts a value into a container.
  void append(NodeRef container, const Value& value);
  /// Counts values that are kept somewhere.
  void charge(size_t values);

  Node& node(NodeRef ref) { return nodes_[ref.index]; }
  const Node& node(NodeRef ref) const { return nodes_[ref.index]; }
  const Storage& storage(StorageRef ref) const { return storages_[ref.index]; }
  std::vector<Tensor> take_tensors() { return std::move(tensors_); }

  /// Plain data as JSON; tuples are lists, a tensor is an empty binary value whose subtype is the
  /// tensor's number. Throws std::invalid_argument for what is neither.
  Json to_json(const Value& value) const;

 private:
  uint32_t weight_of(const Value& value) const;
  Json list_to_json(const Node& node) const;
  Json dict_to_json(const Node& node) const;

  std::vector<Node> nodes_;
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
  size_t charged_ = 0;
};

}  // namespace outrider::pickle
