"""What a run will need and cost, before it is paid: compiled for a pod with no pod, held against chips' peaks."""
