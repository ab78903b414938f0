// ESLint for the page's scripts and their tests. Names that are not defined are TypeScript's to find (tsconfig.json).
import js from '@eslint/js';

export default [
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      'no-undef': 'off',
      'prefer-const': 'error',
      'no-var': 'error',
      eqeqeq: 'error',
      'max-len': ['error', { code: 120 }],
      'max-lines-per-function': ['error', { max: 80 }],
      'max-params': ['error', { max: 8 }],
    },
  },
];
