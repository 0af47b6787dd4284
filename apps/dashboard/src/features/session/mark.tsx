/** Three columns that rise in step: many machines, one direction. */
export function Mark() {
  return (
    <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="currentColor">
      <path d="M1 9.5h3V15H1zM6.5 5.5h3V15h-3zM12 1.5h3V15h-3z" />
    </svg>
  );
}
