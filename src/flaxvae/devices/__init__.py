"""Where computations run: meshes, batches on devices, processes on several hosts."""
