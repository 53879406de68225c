#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "outrider/api.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/layer_supply.h"

namespace outrider {

/// The decoder layers of a frozen base, of which each process keeps an equal part. A layer is
/// gathered for its pass, the next one while it computes: two of them are whole at a time.
class OUTRIDER_API ShardedLayers : public LayerSupply,
                                   public std::enable_shared_from_this<ShardedLayers> {
 public:
  explicit ShardedLayers(Communicator& processes) : processes_(processes) {}

  /// Takes the decoder layers' parameters, which hold no values from here on but in their passes,
  /// and moves the rest to `device`. Throws kUnsupported for a base that cannot have its layers
  /// brought one by one.
  void take(CausalLM& model, at::Device device);

  bool holds(const std::string& parameter) const { return places_.contains(parameter); }
  /// Keeps of this parameter's value what falls to this process.
  void keep(const std::string& parameter, const at::Tensor& value);

  void bring(int64_t layer) override;

 private:
  struct Piece {
    at::Tensor parameter;
    int64_t begin, end;  // in the layer's elements
  };
  struct Layer {
    std::vector<Piece> pieces;
    at::Tensor own;  // this process's part of the layer's elements, which are padded to fit
  };
  struct Place {
    size_t layer, piece;
  };
  /// A layer on its way or there.
  struct Whole {
    int64_t layer = -1;
    at::Tensor elements;
    Communicator::Wait wait;
  };

  Layer taken(const torch::nn::Module& module, at::Device device) const;
  void begin(int64_t layer, Whole& whole);

  Communicator& processes_;
  std::vector<Layer> layers_;
  std::map<std::string, Place> places_;
  Whole present_, next_;
};

}  // namespace outrider
