#pragma once

#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kvcache/block_copier.h"
#include "kvcache/block_pool.h"
#include "kvcache/kv_groups.h"

namespace sluice {

// Per layer: pruned models differ by layer.
struct LayerKv {
  int kv_heads = 0, k_dim = 0, v_dim = 0;
  float k_scale = 1, v_scale = 1;  // of what is kept as fp8_e4m3
  int window = 0;                  // > 0: a token sees the last `window` positions only
};
struct KvShape {
  std::vector<LayerKv> layers;
  int block_size = 16;
  DType dtype = DType::bf16;  // what Ops::keeps_kv_as
};
// Where some layers have windows and others see everything they are two groups, if one's keys are
// as large as the other's: else no block would serve both.
KvGrouping grouping_of(const KvShape&);

// The second tier: as many blocks again in host memory.
struct KvHost {
  int num_blocks = 0;
  std::function<void()> before_copy;  // for tests; see BlockCopier
};

// The bytes behind the block ids, on one rank. The only code that turns a BlockId into an address.
// Memory is [block][layer][K|V][kv_head][slot][dim], each K or V piece padded to 64 bytes, so that
// a block is one contiguous piece over all layers of its group, or over a part of them. Owned by
// the runner; engine thread only.
class KvStore {
 public:
  KvStore(Device&, const KvShape&, int num_blocks, const KvHost& = {});
  KvView layer(int) const;  // [num_blocks, kv_heads, block_size, dim], strided over the blocks

  // On the compute stream, before the step's KV writes (copy-on-write forks).
  void fork(std::span<const BlockCopy> copies);

  // Begins the copies of a launched plan, which may have none: `out` device -> host, `in` host ->
  // device. They end some time later, in no order with any step; see BlockCopier.
  void swap(uint64_t plan, std::span<const BlockCopy> out, std::span<const BlockCopy> in);
  BlockCopier& copier() { return copier_; }

  // Starts to put real memory behind all blocks, lowest first and the host's last, at the lowest
  // priority on a thread of its own: gigabytes take seconds, and the pool hands out low blocks
  // first.
  void populate();
  // The same for the first `num_blocks`, at once.
  void populate_now(int num_blocks);

  const KvShape& shape() const { return shape_; }
  const KvGrouping& grouping() const { return grouping_; }
  int num_blocks() const { return num_blocks_; }
  int num_host_blocks() const { return num_host_blocks_; }
  static size_t bytes_per_block(const KvShape&);

 private:
  void* at(BlockId) const;
  void* host_at(BlockId) const;

  Device& device_;
  KvShape shape_;
  KvGrouping grouping_;
  int num_blocks_, num_host_blocks_;
  size_t block_bytes_;
  Device::Buffer memory_, host_memory_;  // the latter null without a host tier
  std::vector<KvView> layers_;
  std::vector<BlockCopier::Copy> copies_;
  BlockCopier copier_;       // its thread, too, ends before the memory does
  std::jthread populating_;  // last: ends before the memory does
};

}  // namespace sluice
