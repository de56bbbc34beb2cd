#include "server/cli.h"

// POSIX hands the environment over here; everything below gets it as an argument.
extern char** environ;

int main(int argc, char** argv) { return sluice::run_command_line(argc, argv, environ); }
