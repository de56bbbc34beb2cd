#pragma once

#include <span>
#include <vector>

namespace sluice {

// Layers of a model that see equally far back, as those who hand out blocks know them. A model
// without windows is one group, and so is one with a window in every layer; one that mixes both is
// two: what a window has passed is of no use to the windowed layers, and all of it to the others.
struct KvGroup {
  int width = 1;  // blocks for block_size tokens
  // > 0: a token's step reads keys and values of the last `reach` positions only, its own included.
  int reach = 0;
  bool operator==(const KvGroup&) const = default;
};
inline constexpr int kMaxKvGroups = 2;

// How a model's layers share blocks. A block holds block_size tokens of `layers_per_block` layers
// of one group. All blocks are of one size, so that any of them serves any group: the larger group
// takes several blocks for the same tokens, and the last of them may have room to spare.
struct KvGrouping {
  struct Place {
    int table = 0;  // of a sequence's block tables: each group has as many as its width
    int index = 0;  // in the block
  };
  std::vector<KvGroup> groups;  // one or two; of two the first sees everything
  int layers_per_block = 0;
  std::vector<Place> places;  // by layer; of a layer without keys it means nothing

  int num_tables() const {
    int n = 0;
    for (const KvGroup& g : groups) n += g.width;
    return n;
  }
};

// Stretches of block_size tokens that a windowed table must hold at most while a sequence has so
// many tokens in flight; beyond those a token sees it gives them back.
int window_stretches(int reach, int tokens_in_flight, int block_size);

// `windows`: by layer; 0: it sees everything, negative: it has no keys.
KvGrouping group_layers(std::span<const int> windows);
// All layers in one block, whatever their windows.
KvGrouping one_group(std::span<const int> windows);

}  // namespace sluice
