#pragma once

namespace CLI {
class App;
}

namespace sluice {

// Adds `man` and `completion`, which print what `program` takes once it is complete.
void add_manual(CLI::App& program);

}  // namespace sluice
