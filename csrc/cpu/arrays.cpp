// The loops of array_loops.h, compiled for every instruction set.
#include "arrays.h"

#define VAEKIT_LOOPS "array_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {

const ArrayLoops& array_loops(int set) { return VAEKIT_TABLE_OF(set, kArrayLoops); }

}  // namespace vaekit
