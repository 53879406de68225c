#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "outrider/model/base_outputs.h"
#include "outrider/model/sequence_part.h"
#include "outrider/ops/documents.h"

namespace outrider {

namespace nn {
class KvCache;
}

/// One pass of a base. Tensors [B,S]; optional ones may be undefined.
struct BasePass {
  at::Tensor input_ids;     // int64
  at::Tensor position_ids;  // undefined: 0 … S-1, or with a cache those after what it holds
  at::Tensor key_mask;      // bool, false = must not be attended to; undefined: all may be
  HiddenStateRequest request;
  /// Where rows hold several documents: nothing is attended to across them.
  std::optional<ops::Documents> documents = {};
  /// Keys and values of what was read before, to which those of the S rows are added; which of
  /// them stay is the caller's to commit. Rows that follow a sequence's end are padding: no
  /// key_mask. What the pass gives is valid until the next one with this cache. A base that keeps
  /// none throws kUnsupported.
  nn::KvCache* cache = nullptr;
  /// [B or 1,S,S] bool, with a cache: which rows each row sees, its ancestors in a tree and itself;
  /// undefined: the rows follow each other.
  at::Tensor tree_mask = {};
  /// Where several processes share the sequences: S are this one's own rows. Only for a base that
  /// divides_sequences().
  const SequencePart* part = nullptr;
};

}  // namespace outrider
