"""Where computations run: meshes, batches over devices, processes on several hosts."""
