#pragma once

#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kvcache/block_pool.h"

namespace sluice {

// Per layer: pruned models differ by layer.
struct LayerKv {
  int kv_heads = 0, k_dim = 0, v_dim = 0;
};
struct KvShape {
  std::vector<LayerKv> layers;
  int block_size = 16;
  DType dtype = DType::bf16;  // bf16 or f32
};

// The bytes behind the block ids, on one rank. The only code that turns a BlockId into an address.
class KvStore {
 public:
  KvStore(Device&, const KvShape&, int num_blocks);
  KvView layer(int) const;

  // On the compute stream, before the step's KV writes (copy-on-write forks).
  void fork(std::span<const BlockCopy> copies);

  const KvShape& shape() const { return shape_; }
  static size_t bytes_per_block(const KvShape&);

 private:
  Device& device_;
  KvShape shape_;
  Device::Buffer memory_;
  std::vector<KvView> layers_;
};

}  // namespace sluice
