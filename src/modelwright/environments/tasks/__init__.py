"""One task a file. `environments.task.all_tasks` finds them."""
